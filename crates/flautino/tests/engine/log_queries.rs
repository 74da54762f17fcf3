//! `log_queries`: an event before each statement is sent, and one after.

use std::time::Duration;

use flautino::{Engine, EngineConfig};
use flautino_cluster::Proxy;
use flautino_lab::{Capture, Event, Lab, cluster, config, open, polled_at_most, wait_until};
use futures_util::TryStreamExt;

const TARGET: &str = "flautino::query";

fn logging(cluster: &flautino_cluster::Cluster) -> EngineConfig {
    let mut config = EngineConfig { log_queries: true, ..config(cluster, "logged") };
    // What has rested for a second is looked at, and that is logged too.
    config.pool.warm_time = Duration::from_secs(60);
    config
}

/// What was sent, in order.
fn sent(capture: &Capture) -> Vec<String> {
    let events = capture.of(TARGET).into_iter();
    events.map(|event| event.field("sql").to_owned()).filter(|sql| !sql.is_empty()).collect()
}

/// The events before and after the statement.
fn pair(capture: &Capture, sql: &str) -> (Event, Event) {
    let events = capture.of(TARGET);
    let before = events.iter().position(|event| event.field("sql") == sql);
    let before = before.unwrap_or_else(|| panic!("`{sql}` is not logged: {events:#?}"));
    let id = events[before].field("id");
    let same = |event: &&Event| event.field("id") == id;
    assert_eq!(events.iter().filter(same).count(), 2, "two events for `{sql}`");
    let after = events[before + 1..].iter().find(same).expect("one after");
    assert!(after.field("elapsed_us").parse::<u64>().is_ok(), "{after:?}");
    (events[before].clone(), after.clone())
}

#[tokio::test]
async fn each_kind_of_statement_is_logged_with_its_node_rows_and_outcome() {
    let cluster = cluster(1).await;
    let capture = Capture::start();
    let engine = open(logging(&cluster)).await;
    let db = engine.handle().primary();
    let run = async |sql: &'static str| drop(sqlx::query(sql).execute(&db).await);
    run("CREATE TABLE t (a int)").await;
    run("INSERT INTO t VALUES (1), (2), (3)").await;
    run("SELECT nothing").await;
    sqlx::query("SELECT a FROM t").fetch_all(&db).await.unwrap();
    sqlx::query("SELECT a FROM t LIMIT 2").fetch(&db).try_collect::<Vec<_>>().await.unwrap();
    sqlx::raw_sql("SELECT 1; SELECT 2; DELETE FROM t").execute(&db).await.unwrap();
    let replica = db.node("read_replica_1").unwrap();
    sqlx::query("SELECT 'replica'").execute(&replica).await.unwrap();

    for (sql, node, rows, outcome) in [
        ("CREATE TABLE t (a int)", "main", "0", "ok"),
        ("INSERT INTO t VALUES (1), (2), (3)", "main", "3", "ok"),
        ("SELECT nothing", "main", "0", "error"),
        ("SELECT a FROM t", "main", "3", "ok"),
        ("SELECT a FROM t LIMIT 2", "main", "2", "ok"),
        ("SELECT 'replica'", "read_replica_1", "1", "ok"),
    ] {
        let (before, after) = pair(&capture, sql);
        assert_eq!(before.field("node"), node, "{sql}");
        assert_eq!(after.field("node"), node, "{sql}");
        assert_eq!((after.field("rows"), after.field("outcome")), (rows, outcome), "{sql}");
    }
    let (_, failed) = pair(&capture, "SELECT nothing");
    assert!(failed.field("error").contains("42703"), "{failed:?}");
    pair(&capture, "SELECT 1; SELECT 2; DELETE FROM t");
    engine.close().await;
}

#[tokio::test]
async fn transactions_and_the_library_s_own_statements_are_logged_too() {
    let cluster = cluster(0).await;
    let capture = Capture::start();
    let engine =
        Engine::new(EngineConfig { extensions: vec!["hstore".to_owned()], ..logging(&cluster) })
            .unwrap();
    engine.open().await.unwrap();
    let all = sent(&capture).join("\n");
    for own in ["pg_is_in_recovery", "server_version", "CREATE EXTENSION", "pg_extension"] {
        assert!(all.contains(own), "{own}: {all}");
    }
    assert!(all.contains("default_transaction_read_only"), "the set-up: {all}");

    let from = sent(&capture).len();
    let mut tx = engine.handle().begin().await.unwrap();
    let mut savepoint = tx.savepoint().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut savepoint).await.unwrap();
    savepoint.commit().await.unwrap();
    tx.named_savepoint("by name").await.unwrap().rollback().await.unwrap();
    drop(tx.savepoint().await.unwrap());
    tx.commit().await.unwrap();
    engine.handle().begin().await.unwrap().rollback().await.unwrap();
    drop(engine.handle().begin().await.unwrap());
    let kinds = [
        "BEGIN",
        "SAVEPOINT",
        "SELECT 1",
        "RELEASE SAVEPOINT",
        "SAVEPOINT",
        "SAVEPOINT \"by name\"",
        "ROLLBACK TO SAVEPOINT",
        "SAVEPOINT",
        "ROLLBACK TO SAVEPOINT",
        "COMMIT",
        "BEGIN",
        "ROLLBACK",
        "BEGIN",
        "ROLLBACK",
    ];
    wait_until("all is logged", async || sent(&capture).len() >= from + kinds.len()).await;
    let sent = sent(&capture).split_off(from);
    for (sql, kind) in sent.iter().zip(kinds) {
        assert!(sql.starts_with(kind), "{kind}: {sent:#?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn the_event_comes_before_the_statement_is_sent() {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = logging(&cluster);
    config.main.url = Some(proxy.url());
    let capture = Capture::start();
    let engine = open(config).await;
    let db = engine.handle();
    proxy.stall();
    let query = sqlx::query("SELECT 'not sent'").execute(&db);
    assert!(polled_at_most(1, query).await.is_none());
    let (before, after) = pair(&capture, "SELECT 'not sent'");
    assert_eq!((before.field("node"), after.field("outcome")), ("main", "cancelled"));
    proxy.heal().unwrap();
    engine.close().await;
}

#[tokio::test]
async fn without_it_there_is_no_event_at_all() {
    let cluster = cluster(0).await;
    let capture = Capture::start();
    let engine = flautino_lab::engine(&cluster, "quiet").await;
    let mut tx = engine.handle().begin().await.unwrap();
    sqlx::query("SELECT 1").fetch_all(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    engine.close().await;
    assert!(capture.of(TARGET).is_empty());
    assert!(capture.of("flautino::response").is_empty());
    assert!(!capture.all().is_empty(), "the capture works");
}

#[tokio::test]
async fn what_is_logged_is_switched_while_the_engine_runs() {
    let lab = Lab::named("switched").start().await;
    let engine = &lab.engine;
    let log = Capture::start();
    let told = async || {
        let before = log.all().len();
        sqlx::query("SELECT 'a row'").fetch_one(&lab.db).await.unwrap();
        let events = log.all().split_off(before).into_iter().map(|event| event.target);
        let own = ["flautino::query", "flautino::response", "flautino::slow"];
        let of = |target: &str| events.clone().filter(|of| of == target).count();
        own.map(of)
    };
    assert_eq!(told().await, [0, 0, 0]);
    engine.set_log_queries(true);
    assert_eq!(told().await, [2, 0, 0]);
    engine.set_log_responses(true);
    engine.set_log_slow(Duration::from_micros(1));
    assert_eq!(told().await, [2, 1, 1]);
    engine.set_log_repeated(7);
    let settings = engine.settings();
    for (key, value) in [
        ("log_queries", "true"),
        ("log_responses", "true"),
        ("log_slow", "1µs"),
        ("log_repeated", "7"),
    ] {
        assert_eq!(settings[key], value, "{key}");
    }
    engine.set_log_queries(false);
    engine.set_log_responses(false);
    engine.set_log_slow(Duration::ZERO);
    assert_eq!(told().await, [0, 0, 0]);
    lab.engine.close().await;
}
