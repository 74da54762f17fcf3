//! What the classifier wants to know of the server's catalogue.

use sqlx::{PgConnection, Row};

use crate::node::Node;
use crate::router::{Catalogue, HARMLESS, SERVER_VIEWS};

/// Rows of a kind and a name: every function, the volatile ones, what is volatile wherever it
/// stands, operators.
///
/// A view, a table with policies or a domain is volatile when its stored expression names a
/// volatile function, or an operator of one, or a relation that is volatile or describes one
/// server; a type, when a cast to it does; an aggregate, when one of its steps does, since
/// `pg_proc` calls every aggregate immutable. Stored expressions are read as text, for `pg_depend`
/// leaves out the functions that come with PostgreSQL.
const CATALOGUE: &str = "WITH RECURSIVE
    simple AS MATERIALIZED (
        SELECT p.oid, p.proname, p.oid >= 16384 AS own
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.provolatile = 'v' AND p.prokind <> 'p'
        AND NOT ((p.oid < 16384 OR l.lanname = 'c') AND p.proname = ANY (ARRAY[{harmless}]))
    ),
    volatile AS MATERIALIZED (
        SELECT oid, proname, own FROM simple
        UNION
        SELECT a.aggfnoid::oid, p.proname, p.oid >= 16384
        FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid
        WHERE ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggmtransfn, aggmfinalfn]::oid[]
            && ARRAY(SELECT oid FROM simple)
    ),
    -- How others name it in their expressions, its name, its own expression.
    stored AS MATERIALIZED (
        SELECT ':relid ' || c.oid || ' ' AS mark, c.relname AS name, r.ev_action::text AS expression,
            c.oid < 16384 AND c.relname ~ '{server}' AS of_server
        FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
        WHERE c.relkind = 'v'
        UNION ALL
        SELECT ':relid ' || c.oid || ' ', c.relname, concat(polqual::text, polwithcheck::text), false
        FROM pg_policy JOIN pg_class c ON c.oid = polrelid
        UNION ALL
        SELECT ':resulttype ' || t.oid || ' ', t.typname, k.conbin::text, false
        FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid
        UNION ALL
        SELECT NULL, t.typname, ':funcid ' || k.castfunc::oid || ' ', false
        FROM pg_cast k JOIN pg_type t ON t.oid = k.casttarget
        WHERE k.oid >= 16384
    ),
    tainted AS (
        SELECT s.mark, s.name FROM stored s
        WHERE s.of_server OR EXISTS (
            SELECT FROM regexp_matches(
                s.expression, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)', 'g'
            ) AS found(ids) WHERE found.ids[1]::oid IN (SELECT oid FROM volatile)
        )
        UNION
        SELECT s.mark, s.name FROM stored s JOIN tainted t ON position(t.mark IN s.expression) > 0
    )
    SELECT DISTINCT 'f', proname::text FROM pg_proc WHERE prokind <> 'p'
    UNION ALL SELECT DISTINCT 'v', proname::text FROM volatile
    UNION ALL SELECT DISTINCT 'a', proname::text FROM volatile WHERE own
    UNION ALL SELECT DISTINCT 'a', name::text FROM tainted
    UNION ALL SELECT DISTINCT 'o', o.oprname::text
    FROM pg_operator o JOIN volatile v ON v.oid = o.oprcode";

pub(super) async fn read(
    node: &Node,
    connection: &mut PgConnection,
) -> Result<Catalogue, sqlx::Error> {
    let harmless: Vec<_> = HARMLESS.iter().map(|name| format!("'{name}'")).collect();
    let sql = CATALOGUE
        .replace("{harmless}", &harmless.join(", "))
        .replace("{server}", &format!("^(?:{}|pg_stat_.*|pg_statio_.*)$", SERVER_VIEWS.join("|")));
    let mut catalogue = Catalogue::default();
    for row in node.send(connection, sql).await? {
        let (kind, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let name: Box<str> = name.into();
        match kind {
            "f" => catalogue.functions.insert(name),
            "v" => catalogue.volatile.insert(name),
            "a" => catalogue.anywhere.insert(name),
            _ => {
                catalogue.operators.push(name);
                true
            }
        };
    }
    catalogue.operators.sort();
    Ok(catalogue)
}
