//! Calls of a function that writes, where no text shows them: each is a write, and what only looks
//! like one is a read.

use flautino::Access;
use flautino_lab::{Lab, ask, wait_until_or_tell};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const SCHEMA: &str = include_str!("hidden_writes.sql");

/// Statements that call `grab`, as the server shows.
const GRABS: &[&str] = &[
    "SELECT grab(1)",
    "SELECT x.grab FROM generate_series(1, 1) AS x",
    "SELECT n.grab_column FROM notes n",
    "SELECT * FROM of_function",
    "SELECT * FROM of_operator",
    "SELECT * FROM of_any",
    "SELECT * FROM of_aggregate",
    "SELECT * FROM of_window",
    "SELECT * FROM of_attribute",
    "SELECT * FROM of_where",
    "SELECT * FROM of_order",
    "SELECT * FROM of_limit",
    "SELECT * FROM of_subquery",
    "SELECT * FROM of_cte",
    "SELECT * FROM of_from",
    "SELECT * FROM of_rows",
    "SELECT * FROM of_join",
    "SELECT * FROM of_case",
    "SELECT * FROM of_lock",
    "SELECT g FROM app.of_view",
    "SELECT 1 FROM of_function UNION SELECT c FROM of_view_of_view",
    "SELECT body()",
    "SELECT body_of_body()",
    "SELECT body_of_view()",
    "SELECT by_default()",
    // Types.
    "SELECT 1::grabbed",
    "SELECT grabbed '1'",
    "SELECT CAST(1 AS grabbed_twice)",
    "SELECT '{1,2}'::grabbed[]",
    "SELECT '{1,2}'::_grabbed",
    "SELECT CAST(ARRAY[1] AS grabbed_twice[])",
    "SELECT ROW(1, 2)::graded",
    "SELECT '{\"(1,2)\"}'::graded[]",
    "SELECT ROW(1, ROW(1, 2))::regraded",
    "SELECT ROW(1, 2)::grades",
    "SELECT ROW(1, 'a', 'b', 'c', 1)::notes::grabbed_row",
    "SELECT '[1,2]'::grabrange",
    "SELECT '{[1,2]}'::grabmultirange",
    "SELECT takes(1)",
    "SELECT takes_more(1, 2, 3)",
    "SELECT gives()",
    "SELECT * FROM gives_out()",
    "SELECT * FROM gives_table()",
    "SELECT * FROM jsonb_populate_record(NULL::grades, '{\"g\": 1}')",
    "SELECT * FROM json_to_record('{\"g\": 1}') AS x (g grabbed)",
    "SELECT * FROM of_domain",
    "SELECT * FROM of_array",
    "SELECT * FROM of_row",
    "SELECT * FROM of_record",
    // Casts.
    "SELECT takes_mark(1)",
    "SELECT 1::mark",
    "SELECT * FROM of_cast",
    "SELECT 1::coin",
    "SELECT ARRAY[1]::coin[]",
    "SELECT ROW(1, 2)::purse",
    "SELECT lower(l) FROM labelled",
    "SELECT l::text FROM labelled",
    // Operators that the server chooses.
    "SELECT 1 FROM tagged WHERE t IN (ROW(1)::tag)",
    "SELECT 1 FROM tagged a JOIN tagged b USING (t)",
    "SELECT 1 FROM tagged a NATURAL JOIN tagged b",
    "SELECT NULLIF(t, t) FROM tagged",
    "SELECT CASE t WHEN t THEN 1 END FROM tagged",
    "SELECT t IS DISTINCT FROM t FROM tagged",
    "SELECT t BETWEEN ROW(5)::tag AND t FROM tagged WHERE ROW(5)::tag <= t",
    "SELECT t LIKE 'a' FROM tagged",
    "SELECT t = ANY (SELECT t FROM tagged) FROM tagged",
    "SELECT DISTINCT r FROM ranked",
    "SELECT r FROM ranked ORDER BY r",
    "SELECT r FROM ranked ORDER BY r USING >",
    "SELECT greatest(r, r) FROM ranked",
    "SELECT ARRAY[r] < ARRAY[r] FROM ranked",
    "SELECT * FROM of_distinct",
];

/// Statements that a standby refuses, or answers otherwise than the primary. So are policies, which do
/// not hold for a superuser.
const OTHER_WRITES: &[&str] = &[
    "SELECT * FROM of_xid",
    "SELECT * FROM of_xact_id",
    "SELECT * FROM of_xml",
    "SELECT * FROM of_query_xml",
    "SELECT * FROM of_locks",
    "SELECT * FROM of_settings",
    "SELECT * FROM of_activity",
    "SELECT * FROM guarded",
    "SELECT * FROM parted",
    "SELECT * FROM parted_1",
    "SELECT * FROM deep",
    "SELECT * FROM elder",
    "SELECT * FROM spread",
    "SELECT * FROM of_unlogged",
    "SELECT x.pg_cancel_backend FROM generate_series(1, 1) AS x",
    "SELECT x.pg_terminate_backend FROM generate_series(1, 1) AS x",
];

const READS: &[&str] = &[
    "SELECT calm(1)",
    "SELECT id, title FROM notes",
    // Columns that are called like functions.
    "SELECT grab FROM notes",
    "SELECT grabs, grab FROM notes WHERE grab = 'b'",
    "SELECT * FROM of_calm",
    "SELECT * FROM of_calm_view",
    "SELECT calm_body()",
    "SELECT id FROM guarded_writes",
    "SELECT id FROM unguarded",
    "SELECT 1::grade",
    "SELECT CAST('1' AS grade)",
    "SELECT takes_grade(1)",
    "SELECT takes_coin(NULL)",
    "SELECT id FROM kept",
    "SELECT id FROM heirless",
];

async fn lab(name: &str, sql: &str) -> Lab {
    let lab = Lab::named(name).replicas(1).sql(SCHEMA).sql(sql).start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    lab
}

/// How many advisory locks the statement takes.
async fn locks(connection: &mut PgConnection, sql: &str) -> Result<i64, sqlx::Error> {
    let mut tx = connection.begin().await?;
    tx.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await?;
    let count =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    let count = sqlx::query_scalar(count).fetch_one(&mut *tx).await?;
    tx.rollback().await?;
    Ok(count)
}

#[tokio::test]
async fn what_calls_a_volatile_function_anywhere_is_a_write_and_nothing_else_is() {
    let lab = lab("hidden", "CREATE TABLE heirless () INHERITS (notes)").await;
    let mut wrong = Vec::new();
    let mut connection = lab.primary().connect().await.unwrap();
    for (expected, statements) in
        [(Access::Write, GRABS), (Access::Write, OTHER_WRITES), (Access::Read, READS)]
    {
        for sql in statements {
            let access = lab.engine.access(sql);
            if access != expected {
                wrong.push(format!("{access:?}: {sql}"));
            }
        }
    }
    // The tables of this test themselves.
    for (grabs, statements) in [(true, GRABS), (false, READS)] {
        for sql in statements {
            match locks(&mut connection, sql).await {
                Ok(count) if (count > 0) == grabs => {}
                other => wrong.push(format!("{other:?} locks: {sql}")),
            }
        }
    }
    lab.engine.close().await;
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

/// What PostgreSQL may use for values of its own types, with what the status says of it, and a statement
/// that uses it.
const EVERYWHERE: &[(&str, &str, &str, &str)] = &[
    (
        "CREATE FUNCTION json_eq(json, json) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT grab(1) = 1';
         CREATE OPERATOR = (LEFTARG = json, RIGHTARG = json, FUNCTION = json_eq)",
        "DROP OPERATOR = (json, json)",
        "the operator =(json,json)",
        "SELECT '{}'::json IN ('{}'::json)",
    ),
    (
        "CREATE FUNCTION xml_like(xml, text) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT grab(1) = 1';
         CREATE OPERATOR ~~ (LEFTARG = xml, RIGHTARG = text, FUNCTION = xml_like)",
        "DROP OPERATOR ~~ (xml, text)",
        "the operator ~~(xml,text)",
        "SELECT '<a/>'::xml LIKE 'a'",
    ),
    (
        "CREATE FUNCTION int_bool(int8) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT grab(1) = 1';
         CREATE CAST (int8 AS bool) WITH FUNCTION int_bool(int8) AS IMPLICIT",
        "DROP CAST (int8 AS bool)",
        "the cast from bigint to boolean",
        "SELECT true AND 1::int8",
    ),
    (
        "CREATE FUNCTION to_rank(json) RETURNS rank LANGUAGE sql VOLATILE AS 'SELECT ROW(grab(1))::rank';
         CREATE CAST (json AS rank) WITH FUNCTION to_rank(json) AS IMPLICIT",
        "DROP CAST (json AS rank)",
        "the implicit cast from json to rank",
        "SELECT '{}'::json IN ('{}'::json)",
    ),
    (
        "CREATE FUNCTION point_cmp(point, point) RETURNS int LANGUAGE plpgsql VOLATILE
            AS 'BEGIN RETURN grab(0); END';
         CREATE FUNCTION point_lt(point, point) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false';
         CREATE OPERATOR <<< (LEFTARG = point, RIGHTARG = point, FUNCTION = point_lt);
         CREATE OPERATOR === (LEFTARG = point, RIGHTARG = point, FUNCTION = point_lt);
         CREATE OPERATOR CLASS point_ops DEFAULT FOR TYPE point USING btree AS OPERATOR 1 <<<,
            OPERATOR 3 ===, FUNCTION 1 point_cmp(point, point)",
        "DROP OPERATOR FAMILY point_ops USING btree CASCADE",
        "an operator class for point, by its function point_cmp(point,point)",
        "SELECT DISTINCT p FROM unnest(ARRAY['(1,1)'::point, '(2,2)']) AS p",
    ),
];

#[tokio::test]
async fn what_any_query_may_use_makes_every_query_a_write_and_is_named() {
    const PLAIN: &str = "SELECT id FROM notes";
    let lab = lab("everywhere", "SELECT 1").await;
    let blocked = || lab.engine.status().reads_blocked_by;
    let tell = || format!("{:#?}", lab.engine.status());
    for (create, drop, name, sql) in EVERYWHERE {
        assert_eq!(blocked(), [""; 0]);
        assert_eq!(lab.engine.access(PLAIN), Access::Read, "{name}");
        lab.primary().execute(create).await.unwrap();
        let mut connection = lab.primary().connect().await.unwrap();
        assert!(locks(&mut connection, sql).await.unwrap() > 0, "{sql} does not use {name}");
        wait_until_or_tell(name, async || blocked() == [*name], tell).await;
        assert_eq!(lab.engine.access(PLAIN), Access::Write, "{name}");
        assert_eq!(lab.engine.access(sql), Access::Write, "{name}");
        assert_eq!(lab.engine.access("SELECT 1"), Access::Write, "{name}");
        lab.primary().execute(drop).await.unwrap();
        wait_until_or_tell("it is gone", async || lab.engine.access(PLAIN) == Access::Read, tell)
            .await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn casts_and_operators_that_are_declared_harmless_take_no_read_away() {
    let harmless = "
        CREATE FUNCTION json_same(json, json) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
        CREATE OPERATOR = (LEFTARG = json, RIGHTARG = json, FUNCTION = json_same);
        CREATE FUNCTION int_bool(int8) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 <> 0';
        CREATE CAST (int8 AS bool) WITH FUNCTION int_bool(int8) AS IMPLICIT;
        CREATE CAST (int AS text) WITH INOUT AS IMPLICIT;
        CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE EXTENSION ltree;
        CREATE EXTENSION pg_trgm; CREATE EXTENSION btree_gist; CREATE EXTENSION intarray;
        CREATE EXTENSION cube; CREATE EXTENSION isn; CREATE EXTENSION seg;
        CREATE TABLE of_extensions (a citext, b hstore, c ltree, d cube, e isbn, f seg)";
    let lab = lab("harmless", harmless).await;
    assert_eq!(lab.engine.status().reads_blocked_by, [""; 0]);
    for sql in [
        "SELECT DISTINCT a, b, c FROM of_extensions WHERE a = 'x' AND b ? 'y' AND c <@ 'z'",
        "SELECT d, e, f FROM of_extensions WHERE a LIKE 'b' ORDER BY d",
        "SELECT 1 FROM notes WHERE title % 'a' AND ARRAY[id] && ARRAY[1]",
    ] {
        assert_eq!(lab.engine.access(sql), Access::Read, "{sql}");
        let there: bool = ask(lab.primary(), &format!("SELECT EXISTS ({sql}) OR true")).await;
        assert!(there);
    }
    lab.engine.close().await;
}
