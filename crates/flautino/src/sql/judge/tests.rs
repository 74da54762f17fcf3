use std::collections::HashSet;

use super::*;

/// A catalogue with a function, view and operator of each kind.
fn catalogue() -> Catalogue {
    let names = |names: &[&str]| -> HashSet<Box<str>> {
        names.iter().map(|name| Box::from(*name)).collect()
    };
    Catalogue {
        functions: names(&["grab", "grab_row", "calm", "numeric", "generate_series", "now", "abs"]),
        volatile: names(&["grab", "grab_row"]),
        attributes: names(&["grab_row"]),
        anywhere: names(&["grabbing_view", "grabbed", "order"]),
        operators: vec!["|=|".into(), "<>".into()],
        hidden: Vec::new(),
    }
}

fn judged(sql: &str) -> Verdict {
    judge(sql, &StatementTraits::of(sql), &catalogue(), false)
}

#[track_caller]
fn all_are(verdict: Verdict, texts: &[&str]) {
    for sql in texts {
        assert_eq!(judged(sql), verdict, "{sql}");
    }
}

#[test]
fn words_write_where_a_statement_or_a_clause_can_stand() {
    all_are(
        Verdict::Write,
        &[
            "SELECT 1 INTO t",
            "SELECT 1into t",
            "SELECT 1 FOR UPDATE",
            "SELECT 1 FOR /* */ share",
            "SELECT 1 FOR NO KEY UPDATE",
            "SELECT 1 FOR KEY SHARE",
            "WITH a AS (DELETE FROM t RETURNING 1) SELECT 1",
            "WITH a AS MATERIALIZED (UPDATE t SET a = 1) SELECT 1",
            "WITH a AS (UPDATE ONLY t SET a = 1) SELECT 1",
            "WITH a AS (SELECT 1) UPDATE t SET a = 1",
            "WITH a AS (SELECT 1) DELETE FROM t",
            "WITH a AS (SELECT 1) INSERT INTO t VALUES (1)",
            "WITH a AS (SELECT 1) MERGE INTO t USING a ON true WHEN MATCHED THEN DELETE",
            "WITH RECURSIVE a AS (SELECT 1 b) SEARCH DEPTH FIRST BY b SET c DELETE FROM t",
            "WITH RECURSIVE a AS (SELECT 1 b) CYCLE b SET c USING d UPDATE t SET a = 1",
            "((WITH a AS (DELETE FROM t) SELECT 1))",
            "DELETE FROM t",
            "EXECUTE p",
            "",
            ";",
            "(",
            "\"select\" 1",
            "SELECT (1",
            "SELECT 1) UNION (SELECT 2",
            "SELECT 'open",
            "SELECT 1 /* open",
            "SELECT 1; SELECT 2",
            "SELECT begin atomic; DELETE FROM t",
        ],
    );
    all_are(
        Verdict::Read,
        &[
            "SELECT update, delete, merge, insert, returning, no, key, share FROM t",
            "SELECT t.into, t.update FROM t",
            "SELECT calm(update), (delete) FROM t",
            "SELECT a AS update FROM t",
            "SELECT json_query(a, '$' RETURNING text) FROM t",
            "SELECT substring(a FROM 1 FOR 2) FROM t",
            "WITH a AS (SELECT 1), b (x) AS NOT MATERIALIZED (SELECT 2) TABLE a",
            ";;(SELECT 1) UNION VALUES (1);;",
            "SHOW work_mem",
        ],
    );
}

#[test]
fn a_function_counts_where_it_is_called() {
    all_are(
        Verdict::Write,
        &[
            "SELECT grab(1)",
            "SELECT \"grab\" /* */ (1)",
            "SELECT public . GRAB (1)",
            "SELECT * FROM grab(1) x (a)",
            "SELECT U&\"gr!0061b\" UESCAPE '!' (1)",
            "SELECT U&\"a\" UESCAPE E'!' (1)",
            "SELECT t.grab_row, (t).grab_row, ($1).grab_row, a[1].grab_row FROM t",
            "SELECT t.\"grab_row\" FROM t",
            "SELECT E'a'\n'\\'', grab(1) --'",
            "SELECT 'a\\'', grab(1) --'",
            "SELECT $$a$$, $a$ $$ $a$, grab(1)",
            "SELECT 1 |=| 2",
            "SELECT 1 OPERATOR(public.|=|) 2",
            "SELECT 1 != 2",
            "SELECT * FROM grabbing_view",
            "SELECT 1::grabbed, grabbed '1', '{}'::grabbed[]",
            "SELECT t.\"order\" FROM t",
            "SELECT * FROM pg_stat_activity",
        ],
    );
    all_are(
        Verdict::Read,
        &[
            "SELECT grab, grab_row FROM t grab",
            "SELECT 'grab(1)', $$grab(1)$$, 1 AS \"grab(1)\" -- grab(1)",
            "SELECT 1 |=|| 2, a |= |b",
            "SELECT 1 ORDER BY 1",
            "SELECT a LIKE ALL (b), a IN (1), EXISTS (SELECT 1), xmlparse(DOCUMENT a)",
            "SELECT a::numeric(10,2) FROM generate_series(1, 2) g (a)",
            "SELECT U&'\\0441', 'a\\_b'",
        ],
    );
}

#[test]
fn a_call_of_what_the_catalogue_does_not_know_is_told_from_an_alias() {
    all_are(
        Verdict::UnknownFunction,
        &[
            "SELECT fresh(1)",
            "SELECT a, fresh(1)",
            "SELECT * FROM calm(1), fresh(2)",
            "SELECT DISTINCT ON (a) fresh(b) FROM t",
            "SELECT 1 OPERATOR(+) fresh(1)",
            "WITH a AS (SELECT 1, fresh(2)), b AS (SELECT 1) SELECT 1",
            "WITH a AS (SELECT 1) SELECT a, fresh(2)",
            "SELECT * FROM calm(1) WITH ORDINALITY, fresh(2)",
            "SELECT a -> fresh(2), a || \"fresh\"(2), CASE WHEN fresh(1) THEN 1 END",
        ],
    );
    all_are(
        Verdict::Read,
        &[
            "SELECT * FROM t x (a), t AS y (b), (VALUES (1)) z (c), calm(1) v (d)",
            "SELECT * FROM \"T\" x (a), ROWS FROM (calm(1), calm(2)) w (a, b)",
            "WITH RECURSIVE a (x) AS (SELECT 1), \"B\" (y) AS (SELECT 2) SELECT 1",
            "SELECT * FROM (WITH a (x) AS (SELECT calm(1), 2), b (y) AS (SELECT 2) TABLE a) c",
        ],
    );
}

#[test]
fn explain_plans_unless_it_analyzes() {
    all_are(
        Verdict::Read,
        &[
            "EXPLAIN SELECT grab(1)",
            "EXPLAIN (FORMAT json, costs off) DELETE FROM t",
            "EXPLAIN (ANALYZE off, VERBOSE) SELECT 1",
            "EXPLAIN VERBOSE (SELECT 1) UNION (SELECT 2)",
            "EXPLAIN ((SELECT 1))",
        ],
    );
    all_are(
        Verdict::Write,
        &[
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN (ANALYZE) SELECT 1",
            "EXPLAIN (ANALYZE off, \"analyze\") SELECT 1",
            "EXPLAIN (U&\"\\0061nalyze\" on) SELECT 1",
            "EXPLAIN VERBOSE ANALYZE SELECT 1",
            "EXPLAIN EXECUTE p",
            "EXPLAIN",
            "(EXPLAIN SELECT 1)",
        ],
    );
}

#[test]
fn in_doubt_only_what_comes_with_postgresql_is_read() {
    let judged = |sql: &str| judge(sql, &StatementTraits::of(sql), &catalogue(), true);
    for sql in [
        "SELECT 1, now(), 'a'::text, pg_catalog.abs(1) ORDER BY 1",
        "SELECT FROM pg_catalog.pg_class LEFT JOIN pg_type ON true",
        "EXPLAIN SELECT a FROM t",
        "SHOW work_mem",
    ] {
        assert_eq!(judged(sql), Verdict::Read, "{sql}");
    }
    for sql in [
        "SELECT a",
        "TABLE t",
        "SELECT calm(1)",
        "SELECT FROM value",
        "SELECT FROM now",
        "SELECT 1::mood",
        "SELECT \"select\"",
        "SELECT FROM s.pg_class",
    ] {
        assert_eq!(judged(sql), Verdict::Write, "{sql}");
    }
}
