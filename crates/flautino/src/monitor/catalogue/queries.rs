//! The queries that read the catalogue. What stands in braces is filled in.

/// Bounds the statements of a session of its own.
pub(super) const SESSION_LIMIT: &str = "SET statement_timeout = {timeout}";

/// Bounds one message, which is one transaction, so that the setting ends with it: behind PgBouncer
/// other clients use the session too.
pub(super) const LIMITED: &str = "SET LOCAL statement_timeout = {timeout}; {query}";

/// Returns a text that changes when any object of the catalogue does that matters here. A row's `xmin` is the transaction that wrote it, and `VACUUM` and `ANALYZE`
/// leave it as it is. Of relations only what matters is looked at, since `TRUNCATE` and the like write
/// their rows too. Temporary objects are left out: only their own session sees them.
pub(super) const FINGERPRINT: &str = "WITH temporary AS MATERIALIZED (
        SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_'
    ),
    written (weight, oid, xmin) AS (
        SELECT 1, oid, xmin FROM pg_proc WHERE oid >= 16384
        UNION ALL SELECT 3, r.oid, r.xmin FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class
        WHERE r.ev_class >= 16384 AND relnamespace NOT IN (SELECT oid FROM temporary)
        UNION ALL SELECT 5, oid, xmin FROM pg_type WHERE oid >= 16384
            AND typrelid = 0 AND typcategory <> 'A'
            AND typnamespace NOT IN (SELECT oid FROM temporary)
        UNION ALL SELECT 7, oid, xmin FROM pg_operator WHERE oid >= 16384
        UNION ALL SELECT 9, oid, xmin FROM pg_cast WHERE oid >= 16384
        UNION ALL SELECT 11, oid, xmin FROM pg_policy
        UNION ALL SELECT 13, oid, xmin FROM pg_constraint WHERE contypid <> 0
        UNION ALL SELECT 15, oid, xmin FROM pg_amop WHERE oid >= 16384
        UNION ALL SELECT 17, oid, xmin FROM pg_amproc WHERE oid >= 16384
        UNION ALL SELECT 19, d.oid, d.xmin
        FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE a.attgenerated = 'v'
    ),
    hashes (hash) AS (
        SELECT weight::int8 * hashint8(xmin::text::int8 << 32 | oid::int8) FROM written
        UNION ALL SELECT 21::int8 * hashint8(inhparent::int8 << 32 | inhrelid::int8) FROM pg_inherits
        UNION ALL SELECT 23::int8 * hashint8(attrelid::int8 << 32 | atttypid::int8)
        FROM pg_attribute WHERE atttypid >= 16384
        UNION ALL SELECT 25::int8 * hashint8(oid::int8 << 32 | relnatts << 18 | relkind::int << 10
            | relpersistence::int << 1 | relrowsecurity::int) + 27::int8 * hashname(relname)
        FROM pg_class WHERE oid >= 16384 AND relkind NOT IN ('i', 'I', 't')
            AND relnamespace NOT IN (SELECT oid FROM temporary)
    )
    SELECT count(*)::text || ' ' || coalesce(sum(hash), 0)::text FROM hashes";

/// Returns rows of a kind; the other columns depend on it:
///
/// - `f`: the `name` of a function or type;
/// - `p`, `a`: a function of the user's own, or one that writes (then `target_kind` is set); `a` if it
///   can be called with one argument;
/// - `r`: a relation that a read must not read on a standby: an unlogged table, which a standby does
///   not have; a foreign table, which leads to another server; a sequence, whose value on a standby is
///   ahead of the primary's, since it is logged in advance; a view that describes the server that
///   reads it;
/// - `o`: an operator that no other of PostgreSQL's own hides, with its `name`;
/// - `e`: the object `oid` of `kind` refers to the object `target` of `target_kind`;
/// - `h`: no text need show that the object `target` is used; `name` describes it;
/// - `s`: a stored expression: `kind` and `oid` are the object that has it, `target_kind` and `target`
///   where it is stored, `name` the transaction that wrote it.
///
/// Kinds of objects: function `p`, operator `o`, relation `r`, type `t`, and `n`, a type as the target
/// of an explicit cast.
///
/// - A type refers to its base, its elements, its columns and its functions; to operators of its own
///   under a name of PostgreSQL's, which `IN` and the like use; to the members of its operator classes;
///   to implicit casts. A row type and its table refer to each other.
/// - A function refers to its types: a domain's check runs for an argument and for a result.
/// - A table refers to those that inherit from it, partitions included.
/// - Index functions written in C are an extension's own matter: most of them cannot be called.
pub(super) const FACTS: &str = "WITH procs AS MATERIALIZED (
        SELECT p.oid, p.proname, p.oid >= 16384 AS own, l.lanname = 'c' AS is_c,
            CASE WHEN p.oid < 16384 THEN NOT p.proname = ANY ('{{anywhere}}'::name[])
                WHEN l.lanname IN ('c', 'internal')
                    AND p.proname = ANY ('{{extensions_primary}}'::name[]) THEN true
                WHEN l.lanname IN ('c', 'internal')
                    AND p.proname = ANY ('{{extensions_anywhere}}'::name[]) THEN false
                ELSE p.provolatile = 'v' END AS writes,
            p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1 AS is_attribute,
            p.prorettype, p.proargtypes, p.proallargtypes
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.prokind <> 'p'
    ),
    operators AS MATERIALIZED (
        SELECT o.oid, o.oprname, o.oprleft, o.oprright, o.oprcode::oid AS code,
            o.oid >= 16384 AND EXISTS (SELECT FROM pg_operator b
                WHERE b.oid < 16384 AND b.oprname = o.oprname) AS is_hidden,
            greatest(o.oprleft, o.oprright) >= 16384 AS has_own_type
        FROM pg_operator o
    ),
    members AS MATERIALIZED (
        SELECT amopfamily AS family, amoplefttype AS lefttype, amoprighttype AS righttype,
            'o' AS kind, amopopr AS target
        FROM pg_amop WHERE oid >= 16384
        UNION ALL
        SELECT m.amprocfamily, m.amproclefttype, m.amprocrighttype, 'p', m.amproc::oid
        FROM pg_amproc m JOIN procs p ON p.oid = m.amproc AND p.own AND NOT p.is_c
        WHERE m.oid >= 16384
    ),
    casts AS MATERIALIZED (
        SELECT castsource AS source, casttarget AS target, castfunc AS func,
            castcontext = 'i' AS is_implicit
        FROM pg_cast WHERE oid >= 16384
    ),
    edges (kind, oid, target_kind, target) AS (
        SELECT 'p', p.oid, 't', t.oid
        FROM procs p
            CROSS JOIN unnest(p.prorettype || p.proargtypes::oid[] || p.proallargtypes) AS t (oid)
        WHERE p.own
        UNION ALL SELECT 'p', a.aggfnoid, 'p', f.oid
        FROM pg_aggregate a CROSS JOIN unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn,
            aggdeserialfn, aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[]) AS f (oid)
        UNION ALL SELECT 'p', aggfnoid, 'o', aggsortop FROM pg_aggregate
        UNION ALL SELECT 'p', a.aggfnoid, 't', t.oid
        FROM pg_aggregate a CROSS JOIN unnest(ARRAY[aggtranstype, aggmtranstype]) AS t (oid)
        UNION ALL SELECT 'o', oid, 'p', code FROM operators
        UNION ALL SELECT 'o', o.oid, 't', t.oid
        FROM operators o CROSS JOIN unnest(ARRAY[o.oprleft, o.oprright]) AS t (oid)
        UNION ALL SELECT 't', t.oid, 'o', o.oid
        FROM operators o CROSS JOIN unnest(ARRAY[o.oprleft, o.oprright]) AS t (oid) WHERE o.is_hidden
        UNION ALL SELECT 't', t.oid, 't', e.oid
        FROM pg_type t CROSS JOIN unnest(ARRAY[t.typbasetype, t.typelem]) AS e (oid)
        UNION ALL SELECT 't', oid, 'r', typrelid FROM pg_type
        UNION ALL SELECT 't', t.oid, 'p', f.oid
        FROM pg_type t
            CROSS JOIN unnest(ARRAY[typinput, typoutput, typreceive, typsend]::oid[]) AS f (oid)
        WHERE f.oid >= 16384
        UNION ALL SELECT 'r', attrelid, 't', atttypid
        FROM pg_attribute WHERE atttypid >= 16384 AND attnum > 0 AND NOT attisdropped
        UNION ALL SELECT 'r', inhparent, 'r', inhrelid FROM pg_inherits
        UNION ALL SELECT 't', rngtypid, 't', rngsubtype FROM pg_range
        UNION ALL SELECT 't', (to_jsonb(r) ->> 'rngmultitypid')::oid, 't', rngtypid FROM pg_range r
        UNION ALL SELECT 't', r.rngtypid, 'p', f.oid
        FROM pg_range r CROSS JOIN unnest(ARRAY[rngcanonical, rngsubdiff]::oid[]) AS f (oid)
        UNION ALL SELECT 't', r.rngtypid, m.kind, m.target
        FROM pg_range r
            JOIN pg_opclass c ON c.oid = r.rngsubopc JOIN members m ON m.family = c.opcfamily
        UNION ALL SELECT 't', t.oid, m.kind, m.target
        FROM members m CROSS JOIN unnest(ARRAY[m.lefttype, m.righttype]) AS t (oid)
        UNION ALL SELECT CASE WHEN is_implicit THEN 't' ELSE 'n' END, target, 'p', func FROM casts
        UNION ALL SELECT 't', source, 'p', func FROM casts WHERE target < 16384
        UNION ALL SELECT 't', source, 't', target FROM casts WHERE is_implicit
    ),
    hidden (target_kind, target, name) AS (
        SELECT 'o', oid, 'the operator ' || oid::regoperator
        FROM operators WHERE is_hidden AND NOT has_own_type AND oprname = ANY (ARRAY['=', '<>', '<',
            '>', '<=', '>=', '~', '!~', '~*', '!~*', '~~', '!~~', '~~*', '!~~*'])
        UNION ALL SELECT kind, target, 'an operator class for ' || format_type(lefttype, NULL)
            || CASE kind WHEN 'p' THEN ', by its function ' || target::regprocedure
                ELSE ', by its operator ' || target::regoperator END
        FROM members WHERE greatest(lefttype, righttype) < 16384
        UNION ALL SELECT 'p', func, 'the cast from ' || format_type(source, NULL) || ' to '
            || format_type(target, NULL)
        FROM casts WHERE greatest(source, target) < 16384
        UNION ALL SELECT 't', target, 'the implicit cast from ' || format_type(source, NULL) || ' to '
            || format_type(target, NULL)
        FROM casts k WHERE is_implicit AND source < 16384 AND target >= 16384
            AND EXISTS (SELECT FROM operators o
                WHERE o.is_hidden AND k.target IN (o.oprleft, o.oprright))
    )
    SELECT row, kind, oid::int8 AS oid, target_kind, target::int8 AS target, name FROM (
        SELECT DISTINCT 'f' AS row, NULL AS kind, NULL::oid AS oid, NULL AS target_kind,
            NULL::oid AS target, proname::text AS name
        FROM procs
        UNION ALL SELECT DISTINCT 'f', NULL, NULL::oid, NULL, NULL::oid, typname::text FROM pg_type
        UNION ALL SELECT CASE WHEN is_attribute THEN 'a' ELSE 'p' END, 'p', oid,
            CASE WHEN writes THEN 'p' END, NULL, proname
        FROM procs WHERE own OR writes
        UNION ALL SELECT 'r', 'r', oid, NULL, NULL, NULL FROM pg_class
        WHERE relkind IN ('f', 'S') OR (relpersistence = 'u' AND relkind IN ('r', 'p', 'm'))
            OR (relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
                AND NOT relname = ANY ('{{relations_anywhere}}'::name[]))
        UNION ALL SELECT 'o', 'o', oid, NULL, NULL, oprname
        FROM operators WHERE NOT is_hidden OR NOT has_own_type
        UNION ALL SELECT 'e', kind, oid, target_kind, target, NULL
        FROM edges WHERE (oid >= 16384 OR kind = 'o')
            AND (target >= 16384 OR (target > 0 AND target_kind IN ('p', 'o')))
        UNION ALL SELECT 'h', NULL, NULL, target_kind, target, name FROM hidden
        UNION ALL SELECT 's', kind, oid, place, key, version::text FROM ({stored}) AS stored
    ) AS facts";

/// The stored expressions that a read may run. Defaults and checks of tables run only when rows are
/// written; virtual columns run when they are read.
pub(super) const STORED: &str = "SELECT 'r' AS kind, ev_class AS oid, 'v' AS place, r.oid AS key,
        r.xmin AS version, ev_action::text AS expression
    FROM pg_rewrite r JOIN pg_class c ON c.oid = ev_class WHERE c.relkind = 'v' AND r.ev_type = '1'
    UNION ALL SELECT 'r', polrelid, 'p', p.oid, p.xmin, polqual::text
    FROM pg_policy p JOIN pg_class c ON c.oid = polrelid
    WHERE polcmd IN ('r', '*') AND c.relrowsecurity
    UNION ALL SELECT 't', contypid, 'c', oid, xmin, conbin::text
    FROM pg_constraint WHERE contypid <> 0
    UNION ALL SELECT 'r', adrelid, 'd', d.oid, d.xmin, adbin::text
    FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    WHERE a.attgenerated = 'v'
    UNION ALL SELECT 'p', oid, 'a', oid, xmin, proargdefaults::text
    FROM pg_proc WHERE oid >= 16384 AND proargdefaults IS NOT NULL
    UNION ALL SELECT 'p', oid, 'b', oid, xmin, {body}::text
    FROM pg_proc WHERE oid >= 16384 AND {body} IS NOT NULL";

/// The names of relations and types.
pub(super) const NAMES: &str =
    "SELECT relname::text FROM pg_class WHERE oid = ANY ('{relations}'::oid[])
    UNION SELECT typname::text FROM pg_type WHERE oid = ANY ('{types}'::oid[])";

/// Returns the stored expressions of these places, with the transaction that wrote each.
pub(super) const EXPRESSIONS: &str = "SELECT place, key::int8, version::text, expression
    FROM ({stored}) AS stored WHERE (place, key) IN ({places})";
