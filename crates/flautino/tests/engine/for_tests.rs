//! An engine for an app's own tests, on one server.

use flautino::{Consistency, Engine, Error, IsolationLevel, TransactionOptions};
use flautino_lab::{Lab, ask, node_of, number, run, sqlstate};
use sqlx::postgres::PgPoolOptions;

/// A server with some objects, and an engine for tests over it.
async fn start() -> (Lab, Engine) {
    let lab = Lab::named("for_tests")
        .table("t (n int)")
        .sql(
            "CREATE SEQUENCE s; CREATE FUNCTION stable() RETURNS int STABLE LANGUAGE sql \
             AS 'SELECT 1'; CREATE FUNCTION writes() RETURNS int VOLATILE LANGUAGE sql \
             AS 'INSERT INTO t VALUES (1) RETURNING n'; CREATE FUNCTION lies() RETURNS int STABLE \
             LANGUAGE sql AS 'SELECT nextval(''s'')::int'",
        )
        .start_closed()
        .await;
    let options = PgPoolOptions::new().max_connections(3);
    let pool = options.connect_with(lab.primary().connect_options()).await.unwrap();
    (lab, Engine::for_tests(pool))
}

#[tokio::test]
async fn reads_go_to_the_replica_and_writes_and_what_may_write_to_the_primary() {
    let (_lab, engine) = start().await;
    assert!(engine.open().await.unwrap().already_open);
    for (sql, node) in [
        ("SELECT n FROM t", "replica"),
        ("SELECT stable()", "replica"),
        ("SELECT now()", "replica"),
        ("SELECT writes()", "main"),
        ("INSERT INTO t VALUES (1)", "main"),
        ("SELECT nextval('s')", "main"),
        ("SELECT n FROM t FOR UPDATE", "main"),
        ("CREATE TABLE new (n int)", "main"),
        ("SELECT n FROM new", "replica"),
    ] {
        let db = engine.handle();
        run(&db, sql).await.unwrap();
        assert_eq!(node_of(&db), node, "{sql}");
    }
    let status = engine.status();
    let roles: Vec<_> = status.nodes.iter().map(|node| (&*node.name, node.role)).collect();
    assert_eq!(roles, [("main", flautino::Role::Primary), ("replica", flautino::Role::Replica)]);
    engine.close().await;
}

#[tokio::test]
async fn a_session_that_wrote_reads_from_the_primary_and_so_does_who_brings_its_token() {
    let (_lab, engine) = start().await;
    let db = engine.handle();
    run(&db, "INSERT INTO t VALUES (1)").await.unwrap();
    run(&db, "SELECT n FROM t").await.unwrap();
    assert_eq!(node_of(&db), "main");
    let eventual = db.with_consistency(Consistency::Eventual);
    run(&eventual, "SELECT n FROM t").await.unwrap();
    assert_eq!(node_of(&eventual), "replica");
    let next = engine.handle();
    next.observe(&db.token().await.unwrap());
    run(&next, "SELECT n FROM t").await.unwrap();
    assert_eq!(node_of(&next), "main");
    let stranger = engine.handle();
    run(&stranger, "SELECT n FROM t").await.unwrap();
    assert_eq!(node_of(&stranger), "replica");
    engine.close().await;
}

#[tokio::test]
async fn a_write_that_would_reach_a_replica_fails_and_writes_nothing() {
    let (lab, engine) = start().await;
    let replica = engine.handle().node("replica").unwrap();
    for db in [engine.handle().replica(), replica] {
        for sql in [
            "INSERT INTO t VALUES (1)",
            "SELECT writes()",
            "SELECT nextval('s')",
            "SELECT n FROM t FOR UPDATE",
            "CREATE TEMP TABLE x (n int)",
            "SELECT lies()",
        ] {
            let error = run(&db, sql).await.unwrap_err();
            assert_eq!(sqlstate(&error), "25006", "{sql}: {error}");
        }
        let mut tx = db.begin_with(read_only()).await.unwrap();
        assert_eq!(tx.node(), "replica");
        let error = sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap_err();
        assert_eq!(sqlstate(&error), "25006");
        tx.rollback().await.unwrap();
    }
    // A function that says of itself that it is stable is taken for a read, and not rescued here.
    let error = run(&engine.handle(), "SELECT lies()").await.unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    let mut lease = engine.handle().node("replica").unwrap().acquire().await.unwrap();
    let error = sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *lease).await.unwrap_err();
    assert_eq!(sqlstate(&error), "25006");
    drop(lease);
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, 0);
    // What was read-only is so for nobody else.
    for _ in 0..5 {
        run(&engine.handle(), "INSERT INTO t VALUES (1)").await.unwrap();
    }
    engine.close().await;
}

fn read_only() -> TransactionOptions {
    TransactionOptions { read_only: true, ..TransactionOptions::default() }
}

#[tokio::test]
async fn what_a_standby_refuses_and_a_read_only_transaction_does_not_is_refused_too() {
    let (_lab, engine) = start().await;
    let replica = engine.handle().node("replica").unwrap();
    for (sql, what) in [
        ("SELECT pg_notify('a', 'b')", "pg_notify"),
        ("NOTIFY a", "notify"),
        ("LOCK TABLE t", "lock"),
        ("SELECT 1 WHERE txid_current() > 0", "txid_current"),
        ("SELECT pg_current_wal_lsn()", "pg_current_wal_lsn"),
    ] {
        let error = run(&replica, sql).await.unwrap_err();
        let Some(Error::RefusedByStandby { what: told }) = Error::of(&error) else {
            panic!("{sql}: {error}")
        };
        assert_eq!(told, what);
    }
    let isolation = Some(IsolationLevel::Serializable);
    let options = TransactionOptions { isolation, ..read_only() };
    let error = replica.begin_with(options.clone()).await.map(drop).unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::RefusedByStandby { .. })), "{error}");
    // Through a plain handle that goes to the primary, as it would on a cluster.
    let tx = engine.handle().begin_with(options).await.unwrap();
    assert_eq!(tx.node(), "main");
    drop(tx);
    engine.close().await;
}

#[tokio::test]
async fn settings_of_a_handle_hold_on_both_nodes() {
    let (_lab, engine) = start().await;
    let db = engine.handle().with_settings([("app.tenant", "7")]);
    let sql = "SELECT current_setting('app.tenant')::bigint";
    assert_eq!(number(&db, sql).await.unwrap(), 7);
    assert_eq!(node_of(&db), "replica");
    assert_eq!(number(&db.primary(), sql).await.unwrap(), 7);
    engine.close().await;
}
