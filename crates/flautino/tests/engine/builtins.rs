//! PostgreSQL's own functions, relations, types and key words: the tables beside
//! `sql/builtins.rs` name all that the running server has, and statements go where they say.

use std::collections::{BTreeMap, BTreeSet};

use flautino::Access;
use flautino_cluster::Node;
use flautino_lab::{Lab, ask, catch_up, node_of, run, wait_until};
use sqlx::{AssertSqlSafe, Connection, Executor};

const FUNCTIONS: &str = include_str!("../../src/sql/builtins/functions.txt");
const RELATIONS: &str = include_str!("../../src/sql/builtins/relations.txt");
const TYPES: &str = include_str!("../../src/sql/builtins/types.txt");
const KEYWORDS: &str = include_str!("../../src/sql/builtins/keywords.txt");
const MAIN: &str = "main";
const REPLICA: &str = "read_replica_1";

/// The names of a table, each with its section.
fn table(text: &'static str) -> BTreeMap<&'static str, &'static str> {
    let mut section = "";
    let mut names = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
        } else {
            names.extend(line.split_whitespace().map(|name| (name, section)));
        }
    }
    names
}

/// What a query of one column of names returns.
async fn names(node: &Node, sql: &str) -> BTreeSet<String> {
    let array: Vec<String> = ask(node, &format!("SELECT array(SELECT DISTINCT {sql})")).await;
    assert!(array.len() > 50, "{sql} finds {array:?}");
    array.into_iter().collect()
}

fn missing(server: &BTreeSet<String>, table: &BTreeMap<&str, &str>) -> Vec<String> {
    server.iter().filter(|name| !table.contains_key(name.as_str())).cloned().collect()
}

#[tokio::test]
async fn whatever_the_server_has_was_reviewed() {
    let lab = Lab::named("reviewed").start().await;
    let server = lab.primary();
    let none: Vec<String> = Vec::new();

    let functions = names(server, "proname::text FROM pg_proc WHERE oid < 16384").await;
    assert_eq!(missing(&functions, &table(FUNCTIONS)), none, "functions");

    let sql = "relname::text FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace \
               AND relkind IN ('r', 'v')";
    let relations = names(server, sql).await;
    assert_eq!(missing(&relations, &table(RELATIONS)), none, "relations");

    let sql = "coalesce(element.typname, t.typname)::text FROM pg_type t \
               LEFT JOIN pg_type element ON element.typarray = t.oid \
               WHERE t.typnamespace = 'pg_catalog'::regnamespace";
    let mut known = table(TYPES);
    known.extend(table(RELATIONS));
    assert_eq!(missing(&names(server, sql).await, &known), none, "types");

    let sql = "word || ' ' || CASE catcode WHEN 'R' THEN '[reserved]' WHEN 'C' THEN '[column]' \
               WHEN 'T' THEN '[type_or_function]' ELSE '[unreserved]' END FROM pg_get_keywords()";
    let known = table(KEYWORDS);
    let mut known: BTreeSet<_> =
        known.iter().map(|(word, kind)| format!("{word} {kind}")).collect();
    // The table has it as before PostgreSQL 17, when a function of the user's own could be called so.
    known.insert("json [column]".to_owned());
    let words = names(server, sql).await;
    assert_eq!(words.difference(&known).cloned().collect::<Vec<_>>(), none, "key words");
    lab.engine.close().await;
}

/// They make a value of a type that is given as a value, so they write only where a type does. Not every
/// version has all of them.
const MAKE_A_TYPE: [&str; 7] = [
    "array_in",
    "domain_in",
    "multirange_in",
    "pg_input_error_info",
    "pg_input_is_valid",
    "range_in",
    "record_in",
];

#[tokio::test]
async fn a_call_of_each_function_goes_where_the_table_says() {
    let lab = Lab::named("each_function").replicas(1).start().await;
    lab.until_served_by(&[REPLICA]).await;
    let functions = names(lab.primary(), "proname::text FROM pg_proc WHERE oid < 16384").await;
    let mut make_a_type = MAKE_A_TYPE.to_vec();
    make_a_type.retain(|name| functions.contains(*name));
    assert!(make_a_type.len() >= 4, "{make_a_type:?}");
    let verdicts = table(FUNCTIONS);
    let mut wrong = Vec::new();
    for name in functions {
        let is_read = verdicts[name.as_str()] == "[any]" || MAKE_A_TYPE.contains(&name.as_str());
        let expected = if is_read { Access::Read } else { Access::Write };
        let access = lab.engine.access(&format!("SELECT pg_catalog.\"{name}\"()"));
        if access != expected {
            wrong.push(format!("{name}: {access:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));

    let domain = "CREATE FUNCTION grab(int) RETURNS bool LANGUAGE sql VOLATILE
            AS 'SELECT pg_try_advisory_xact_lock($1)';
        CREATE DOMAIN grabbed AS int CHECK (grab(VALUE))";
    lab.primary().execute(domain).await.unwrap();
    wait_until("what makes a value of any type is a write", async || {
        let access = |name: &&str| lab.engine.access(&format!("SELECT pg_catalog.{name}()"));
        make_a_type.iter().all(|name| access(name) == Access::Write)
    })
    .await;
    lab.engine.close().await;
}

#[tokio::test]
async fn each_system_relation_goes_where_the_table_says_also_behind_a_view() {
    let lab = Lab::named("each_relation").replicas(1).start().await;
    let server = lab.primary();
    let sql = "relname::text FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace \
               AND relkind IN ('r', 'v')";
    let relations = names(server, sql).await;
    for name in &relations {
        let view = format!("CREATE VIEW view_of_{name} AS SELECT count(*) FROM {name}");
        server.execute(&view).await.unwrap();
    }
    let sql = "relname::text FROM pg_class \
               WHERE relnamespace = 'information_schema'::regnamespace AND relkind IN ('r', 'v')";
    let standard = names(server, sql).await;
    catch_up(&lab.cluster).await;
    let engine = lab.another().await;
    let verdicts = table(RELATIONS);
    let mut wrong = Vec::new();
    let mut check = |relation: String, expected| {
        let access = engine.access(&format!("SELECT * FROM {relation}"));
        if access != expected {
            wrong.push(format!("{relation}: {access:?}"));
        }
    };
    for name in relations {
        let any = verdicts[name.as_str()] == "[any]";
        let expected = if any { Access::Read } else { Access::Write };
        check(format!("view_of_{name}"), expected);
        check(name, expected);
    }
    for name in standard {
        check(format!("information_schema.{name}"), Access::Read);
    }
    engine.close().await;
    lab.engine.close().await;
    assert!(wrong.is_empty(), "{}: {}", wrong.len(), wrong.join("\n"));
}

/// A reader of a queue takes what all transactions before its snapshot have written. To a standby a
/// transaction that is still open looks finished, so the reader would skip its rows for good.
#[tokio::test]
async fn what_asks_for_a_snapshot_asks_the_primary() {
    let lab = Lab::named("snapshots")
        .replicas(1)
        .table("queue (id int, by xid8 DEFAULT pg_current_xact_id())")
        .start()
        .await;
    let mut open = lab.primary().connect().await.unwrap();
    open.execute("BEGIN; INSERT INTO queue (id) VALUES (1)").await.unwrap();
    let number: String =
        sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(&mut open).await.unwrap();
    // A later one has ended, so that the open one is none that the snapshot cannot know of.
    lab.primary().execute("INSERT INTO queue (id) VALUES (2)").await.unwrap();
    catch_up(&lab.cluster).await;
    lab.until_served_by(&[REPLICA]).await;

    let visible = [
        format!("SELECT pg_visible_in_snapshot('{number}'::xid8, pg_current_snapshot())"),
        format!("SELECT txid_visible_in_snapshot({number}, txid_current_snapshot())"),
    ];
    for sql in &visible {
        assert!(!ask::<bool>(lab.primary(), sql).await, "{sql}");
        assert!(ask::<bool>(lab.cluster.replica(0), sql).await, "{sql}");
        let db = lab.engine.handle();
        let seen: bool =
            sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_one(&db).await.unwrap();
        assert!(!seen, "{sql}");
        assert_eq!(node_of(&db), MAIN, "{sql}");
    }
    for sql in [
        "SELECT pg_visible_in_snapshot(by, '1:9:') FROM queue",
        "SELECT txid_visible_in_snapshot(1, '1:9:')",
        "SELECT max(id) FROM queue WHERE by < pg_snapshot_xmin(pg_current_snapshot())",
        "SELECT txid_snapshot_xmax(txid_current_snapshot())",
    ] {
        assert_eq!(lab.engine.access(sql), Access::Write, "{sql}");
    }
    // What only computes with a snapshot that it is given.
    let pure = "SELECT pg_snapshot_xmin('1:9:'), pg_snapshot_xip('1:9:3')";
    assert_eq!(lab.engine.access(pure), Access::Read);
    open.close().await.unwrap();
    lab.engine.close().await;
}

#[tokio::test]
async fn functions_of_extensions_count_by_what_they_do() {
    let lab = Lab::named("extensions_reviewed")
        .replicas(1)
        .sql(
            "CREATE EXTENSION tablefunc; CREATE EXTENSION xml2; CREATE EXTENSION pg_trgm; \
             CREATE EXTENSION isn; CREATE EXTENSION pgcrypto; CREATE EXTENSION tsm_system_rows; \
             CREATE EXTENSION intagg; CREATE EXTENSION dblink; CREATE EXTENSION pgrowlocks; \
             CREATE TABLE notes (id int, title text); \
             CREATE SCHEMA own; \
             CREATE FUNCTION own.gen_salt() RETURNS text LANGUAGE sql VOLATILE AS 'SELECT ''x''';",
        )
        .start()
        .await;
    lab.until_served_by(&[REPLICA]).await;
    for sql in [
        "SELECT * FROM crosstab('SELECT 1, 2, 3') AS c (a int, b int)",
        "SELECT * FROM crosstab3('SELECT ''a'', ''b'', ''c''')",
        "SELECT * FROM connectby('t', 'a', 'b', '1', 0) AS c (a text, b text, c int)",
        "SELECT * FROM xpath_table('id', 'title', 'notes', '/a', 'true') AS x (a int, b text)",
        "SELECT * FROM dblink('dbname=x', 'SELECT 1') AS d (a int)",
        "SELECT set_limit(0.5)",
        "SELECT show_limit()",
        "SELECT isn_weak(true)",
        "SELECT * FROM pgrowlocks('notes')",
        // One of that name is the user's own.
        "SELECT gen_salt('bf')",
    ] {
        assert_eq!(lab.engine.access(sql), Access::Write, "{sql}");
    }
    for sql in [
        "SELECT encode(gen_random_bytes(8), 'hex')",
        "SELECT * FROM normal_rand(3, 5, 3)",
        "SELECT * FROM notes TABLESAMPLE system_rows (10)",
        "SELECT int_array_aggregate(id) FROM notes",
        "SELECT similarity('a', 'b'), digest('a', 'md5'), isbn('978-0-393-04002-9')::text",
    ] {
        let db = lab.engine.handle();
        run(&db, sql).await.unwrap();
        assert_eq!(node_of(&db), REPLICA, "{sql}");
    }
    lab.engine.close().await;
}
