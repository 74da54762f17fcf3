//! With one node, too, a read whose connection is lost is run once more; a write never.

use std::time::Duration;

use flautino::{EngineConfig, Handle};
use flautino_cluster::Node;
use flautino_lab::{Lab, ask, end_sessions, pid, until_running, wait_until};
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

async fn start(name: &str) -> Lab {
    let lab = Lab::named(name).behind_proxy().config(keep_warm).start().await;
    lab.primary().execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)").await.unwrap();
    lab
}

/// Ends those sessions of that name; answers how many there were.
async fn terminate(node: &Node, name: &str, which: &str) -> usize {
    end_sessions(node, &format!("application_name = '{name}' AND {which}")).await
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
    let lab = start("rested").await;
    for _ in 0..3 {
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&lab.db).await.unwrap();
        assert_eq!(one, 1);
        assert!(terminate(lab.primary(), "rested", "true").await > 0);
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&lab.db).await.unwrap();
        assert_eq!(one, 1);
        assert!(terminate(lab.primary(), "rested", "true").await > 0);
        assert_eq!(count(&lab.db).await.unwrap(), 2);
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn nor_where_all_of_the_pool_s_connections_were_ended_at_once() {
    let lab = start("all").await;
    for _ in 0..3 {
        let leases =
            futures_util::future::try_join_all((0..3).map(|_| lab.db.acquire())).await.unwrap();
        drop(leases);
        assert_eq!(lab.pool().warm, 3);
        assert_eq!(terminate(lab.primary(), "all", "true").await, 3);
        assert_eq!(count(&lab.db).await.unwrap(), 2);
        pid(&lab.db).await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_read_that_was_under_way_is_run_again() {
    let lab = start("running").await;
    let locked = lock(lab.primary()).await;
    let db = lab.db.clone();
    let read = tokio::spawn(async move { count(&db).await });
    until_running(lab.primary(), "running", COUNT).await;
    assert_eq!(terminate(lab.primary(), "running", "state = 'active'").await, 1);
    until_running(lab.primary(), "running", COUNT).await;
    drop(locked);
    assert_eq!(read.await.unwrap().unwrap(), 2);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_second_loss_is_the_error() {
    let lab = start("twice").await;
    let _locked = lock(lab.primary()).await;
    let db = lab.db.clone();
    let read = tokio::spawn(async move { count(&db).await });
    for _ in 0..2 {
        until_running(lab.primary(), "twice", COUNT).await;
        assert_eq!(terminate(lab.primary(), "twice", "state = 'active'").await, 1);
    }
    let ended = tokio::time::timeout(SOON, read).await.expect("it does not run a third time");
    ended.unwrap().unwrap_err();
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_write_is_sent_once() {
    let lab = start("write").await;
    let insert = "INSERT INTO t VALUES (3)";
    let locked = lock(lab.primary()).await;
    let db = lab.db.clone();
    let write = tokio::spawn(async move { sqlx::query(insert).execute(&db).await });
    until_running(lab.primary(), "write", insert).await;
    assert_eq!(terminate(lab.primary(), "write", "state = 'active'").await, 1);
    let ended = tokio::time::timeout(SOON, write).await.expect("it does not run again");
    ended.unwrap().unwrap_err();
    drop(locked);
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 2);
    lab.engine.close().await;
}

#[tokio::test]
async fn what_may_write_is_sent_once() {
    let lab = start("unknown").await;
    let functions = "CREATE SEQUENCE s; CREATE FUNCTION bump() RETURNS bigint LANGUAGE plpgsql AS \
                     $$ BEGIN PERFORM nextval('s'); PERFORM count(*) FROM t; RETURN 1; END $$";
    lab.primary().execute(functions).await.unwrap();
    for sql in ["SELECT bump()", "SELECT nextval('s'), (SELECT count(*) FROM t)"] {
        let locked = lock(lab.primary()).await;
        let db = lab.db.clone();
        let call = tokio::spawn(async move { sqlx::query(sql).execute(&db).await });
        until_running(lab.primary(), "unknown", sql).await;
        assert_eq!(terminate(lab.primary(), "unknown", "state = 'active'").await, 1);
        let ended = tokio::time::timeout(SOON, call).await.expect("it does not run again");
        ended.unwrap().unwrap_err();
        drop(locked);
    }
    // Once by the first; the second waited for the table before it could be planned.
    assert!(ask::<i64>(lab.primary(), "SELECT last_value FROM s").await <= 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_read_that_has_answered_a_row_is_not_run_again() {
    let lab = start("rows").await;
    let sql = "SELECT n, pg_sleep(CASE WHEN n < 1000 THEN 0 ELSE 60 END)::text \
               FROM generate_series(1, 1000) n";
    let mut rows = sqlx::query_as::<_, (i32, String)>(sql).fetch(&lab.db);
    let (first, _) = rows.next().await.unwrap().unwrap();
    assert_eq!(first, 1);
    assert_eq!(terminate(lab.primary(), "rows", "state = 'active'").await, 1);
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
    assert_eq!(count(&lab.db).await.unwrap(), 2);
    lab.engine.close().await;
}

#[tokio::test]
async fn in_a_lease_or_a_transaction_nothing_is_run_again() {
    let lab = start("session").await;
    let mut lease = lab.db.acquire().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut lease).await.unwrap();
    assert!(terminate(lab.primary(), "session", "true").await > 0);
    sqlx::query(COUNT).execute(&mut lease).await.unwrap_err();
    drop(lease);
    let mut tx = lab.db.begin().await.unwrap();
    assert!(terminate(lab.primary(), "session", "true").await > 0);
    sqlx::query(COUNT).execute(&mut tx).await.unwrap_err();
    drop(tx);
    assert_eq!(count(&lab.db).await.unwrap(), 2);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_begin_on_a_connection_that_was_ended_while_it_rested_does_not_fail() {
    let lab = start("begin").await;
    pid(&lab.db).await;
    assert!(terminate(lab.primary(), "begin", "true").await > 0);
    // A lone BEGIN did nothing.
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (3)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 3);
    lab.engine.close().await;
}

#[tokio::test]
async fn reads_that_run_while_sessions_are_ended_again_and_again_do_not_fail() {
    let lab = start("again").await;
    let db = lab.db.clone();
    // Each loss is followed by enough quiet for one statement.
    let ended = async {
        let mut ended = 0;
        for _ in 0..20 {
            ended += terminate(lab.primary(), "again", "true").await;
            let before = lab.engine.status().nodes[0].statements;
            wait_until("more was read", async || {
                lab.engine.status().nodes[0].statements > before + 5
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
    lab.engine.close().await;
}

#[tokio::test]
async fn nor_do_they_through_a_handle_that_names_one_of_several_nodes() {
    let lab = Lab::named("named").replicas(1).config(keep_warm).frozen();
    let lab = lab.table("t (a int)").start().await;
    let nodes = [("main", lab.primary()), ("read_replica_1", lab.cluster.replica(0))].map(
        |(name, node)| {
            let handle = lab.db.node(name).unwrap();
            (handle, node)
        },
    );
    for (db, node) in &nodes {
        for _ in 0..3 {
            let before = pid(db).await;
            assert!(terminate(node, "named", "backend_type = 'client backend'").await > 0);
            assert_eq!(count(db).await.unwrap(), 0);
            assert_ne!(pid(db).await, before);
            assert!(terminate(node, "named", "backend_type = 'client backend'").await > 0);
            // A lone BEGIN did nothing.
            db.begin().await.unwrap().rollback().await.unwrap();
        }
    }
    // A write is sent once there too.
    let (db, node) = &nodes[0];
    pid(db).await;
    assert!(terminate(node, "named", "backend_type = 'client backend'").await > 0);
    sqlx::query("INSERT INTO t VALUES (1)").execute(db).await.unwrap_err();
    lab.engine.close().await;
}
