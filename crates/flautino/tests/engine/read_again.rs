//! With one node, too, a read whose connection is lost is run once more; a write never.

use std::time::Duration;

use flautino::{EngineConfig, Handle};
use flautino_cluster::Node;
use flautino_lab::{Proxied, ask, pid, until_running, wait_until};
use futures_util::StreamExt;
use sqlx::PgConnection;

const COUNT: &str = "SELECT count(*) FROM t";
/// Far less than the pool would wait.
const SOON: Duration = Duration::from_secs(10);

fn keep_warm(config: &mut EngineConfig) {
    config.pool.max_connections = 3;
    config.pool.acquire_timeout = Duration::from_secs(60);
    // A ping would find out what the statement is to find out.
    config.pool.warm_time = Duration::from_secs(600);
}

async fn start(name: &str) -> Proxied {
    let server = Proxied::start(name, keep_warm).await;
    server.node().execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)").await.unwrap();
    server
}

/// Ends all sessions of that name; answers how many there were.
async fn terminate(node: &Node, name: &str, which: &str) -> i64 {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
         WHERE application_name = '{name}' AND {which}"
    );
    ask(node, &sql).await
}

async fn count(db: &Handle) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(COUNT).fetch_one(db).await
}

/// Takes a lock for which every statement on the table waits.
async fn lock(node: &Node) -> PgConnection {
    let mut connection = node.connect().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE t").execute(&mut connection).await.unwrap();
    connection
}

#[tokio::test]
async fn a_read_on_a_connection_that_was_ended_while_it_rested_does_not_fail() {
    let server = start("rested").await;
    for _ in 0..3 {
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&server.db).await.unwrap();
        assert_eq!(one, 1);
        assert!(terminate(server.node(), "rested", "true").await > 0);
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&server.db).await.unwrap();
        assert_eq!(one, 1);
        assert!(terminate(server.node(), "rested", "true").await > 0);
        assert_eq!(count(&server.db).await.unwrap(), 2);
    }
    server.engine.close().await;
}

#[tokio::test]
async fn nor_where_all_of_the_pool_s_connections_were_ended_at_once() {
    let server = start("all").await;
    for _ in 0..3 {
        let leases =
            futures_util::future::try_join_all((0..3).map(|_| server.db.acquire())).await.unwrap();
        drop(leases);
        assert_eq!(server.pool().warm, 3);
        assert_eq!(terminate(server.node(), "all", "true").await, 3);
        assert_eq!(count(&server.db).await.unwrap(), 2);
        pid(&server.db).await;
    }
    server.engine.close().await;
}

#[tokio::test]
async fn a_read_that_was_under_way_is_run_again() {
    let server = start("running").await;
    let locked = lock(server.node()).await;
    let db = server.db.clone();
    let read = tokio::spawn(async move { count(&db).await });
    until_running(server.node(), "running", COUNT).await;
    assert_eq!(terminate(server.node(), "running", "state = 'active'").await, 1);
    until_running(server.node(), "running", COUNT).await;
    drop(locked);
    assert_eq!(read.await.unwrap().unwrap(), 2);
    server.engine.close().await;
}

#[tokio::test]
async fn a_second_loss_is_the_error() {
    let server = start("twice").await;
    let _locked = lock(server.node()).await;
    let db = server.db.clone();
    let read = tokio::spawn(async move { count(&db).await });
    for _ in 0..2 {
        until_running(server.node(), "twice", COUNT).await;
        assert_eq!(terminate(server.node(), "twice", "state = 'active'").await, 1);
    }
    let ended = tokio::time::timeout(SOON, read).await.expect("it does not run a third time");
    ended.unwrap().unwrap_err();
    assert_eq!(server.engine.status().nodes[0].in_flight, 0);
    server.engine.close().await;
}

#[tokio::test]
async fn a_write_is_sent_once() {
    let server = start("write").await;
    let insert = "INSERT INTO t VALUES (3)";
    let locked = lock(server.node()).await;
    let db = server.db.clone();
    let write = tokio::spawn(async move { sqlx::query(insert).execute(&db).await });
    until_running(server.node(), "write", insert).await;
    assert_eq!(terminate(server.node(), "write", "state = 'active'").await, 1);
    let ended = tokio::time::timeout(SOON, write).await.expect("it does not run again");
    ended.unwrap().unwrap_err();
    drop(locked);
    assert_eq!(ask::<i64>(server.node(), COUNT).await, 2);
    server.engine.close().await;
}

#[tokio::test]
async fn what_may_write_is_sent_once() {
    let server = start("unknown").await;
    let functions = "CREATE SEQUENCE s; CREATE FUNCTION bump() RETURNS bigint LANGUAGE plpgsql AS \
                     $$ BEGIN PERFORM nextval('s'); PERFORM count(*) FROM t; RETURN 1; END $$";
    server.node().execute(functions).await.unwrap();
    for sql in ["SELECT bump()", "SELECT nextval('s'), (SELECT count(*) FROM t)"] {
        let locked = lock(server.node()).await;
        let db = server.db.clone();
        let call = tokio::spawn(async move { sqlx::query(sql).execute(&db).await });
        until_running(server.node(), "unknown", sql).await;
        assert_eq!(terminate(server.node(), "unknown", "state = 'active'").await, 1);
        let ended = tokio::time::timeout(SOON, call).await.expect("it does not run again");
        ended.unwrap().unwrap_err();
        drop(locked);
    }
    // Once by the first; the second waited for the table before it could be planned.
    assert!(ask::<i64>(server.node(), "SELECT last_value FROM s").await <= 1);
    server.engine.close().await;
}

#[tokio::test]
async fn a_read_that_has_answered_a_row_is_not_run_again() {
    let server = start("rows").await;
    let sql = "SELECT n, pg_sleep(CASE WHEN n < 1000 THEN 0 ELSE 60 END)::text \
               FROM generate_series(1, 1000) n";
    let mut rows = sqlx::query_as::<_, (i32, String)>(sql).fetch(&server.db);
    let (first, _) = rows.next().await.unwrap().unwrap();
    assert_eq!(first, 1);
    assert_eq!(terminate(server.node(), "rows", "state = 'active'").await, 1);
    let mut last = first;
    let failed = loop {
        match rows.next().await {
            Some(Ok((number, _))) => {
                assert_eq!(number, last + 1);
                last = number;
            }
            Some(Err(error)) => break error,
            None => panic!("it ended after {last}"),
        }
    };
    println!("after {last} rows: {failed}");
    drop(rows);
    assert_eq!(count(&server.db).await.unwrap(), 2);
    server.engine.close().await;
}

#[tokio::test]
async fn in_a_lease_or_a_transaction_nothing_is_run_again() {
    let server = start("session").await;
    let mut lease = server.db.acquire().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut lease).await.unwrap();
    assert!(terminate(server.node(), "session", "true").await > 0);
    sqlx::query(COUNT).execute(&mut lease).await.unwrap_err();
    drop(lease);
    let mut tx = server.db.begin().await.unwrap();
    assert!(terminate(server.node(), "session", "true").await > 0);
    sqlx::query(COUNT).execute(&mut tx).await.unwrap_err();
    drop(tx);
    assert_eq!(count(&server.db).await.unwrap(), 2);
    server.engine.close().await;
}

#[tokio::test]
async fn a_begin_on_a_connection_that_was_ended_while_it_rested_does_not_fail() {
    let server = start("begin").await;
    pid(&server.db).await;
    assert!(terminate(server.node(), "begin", "true").await > 0);
    // A lone BEGIN did nothing.
    let mut tx = server.db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (3)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ask::<i64>(server.node(), COUNT).await, 3);
    server.engine.close().await;
}

#[tokio::test]
async fn reads_that_run_while_sessions_are_ended_again_and_again_do_not_fail() {
    let server = start("again").await;
    let db = server.db.clone();
    // Each loss is followed by enough quiet for one statement.
    let ended = async {
        let mut ended = 0;
        for _ in 0..20 {
            let before = server.engine.status().nodes[0].statements;
            ended += terminate(server.node(), "again", "true").await;
            wait_until("more was read", async || {
                server.engine.status().nodes[0].statements > before + 5
            })
            .await;
        }
        ended
    };
    let mut reads = std::pin::pin!(async {
        loop {
            assert_eq!(count(&db).await.unwrap(), 2);
        }
    });
    let ended = tokio::select! {
        ended = ended => ended,
        never = &mut reads => never,
    };
    assert!(ended >= 20, "{ended}");
    server.engine.close().await;
}
