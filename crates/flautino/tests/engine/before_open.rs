//! Before `open` there is no pool, and everything works.

use flautino::Engine;
use flautino_cluster::Node;
use flautino_lab::{Lab, ask, cluster, config, is_since, sessions_of, wait_until};
use futures_util::TryStreamExt;

async fn nobody_is_left(node: &Node) {
    wait_until("no connection is left behind", async || sessions_of(node, "unopened").await == 0)
        .await;
}

#[tokio::test]
async fn a_query_works_and_leaves_no_connection_behind() {
    let Lab { cluster, engine, db, .. } = Lab::named("unopened").start_closed().await;
    let name: String = sqlx::query_scalar("SELECT current_setting('application_name')")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(name, "unopened");
    nobody_is_left(cluster.primary()).await;
    assert!(!engine.status().open);
    assert!(engine.pool("main").is_none());

    let rows: Vec<i32> = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 3)")
        .fetch(&db)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(rows, [1, 2, 3]);
    nobody_is_left(cluster.primary()).await;
}

#[tokio::test]
async fn a_transaction_works_and_leaves_no_connection_behind() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    node.execute("CREATE TABLE t (a int)").await.unwrap();
    let engine = Engine::new(config(&cluster, "unopened")).unwrap();
    let db = engine.handle();
    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    assert_eq!(ask::<i64>(node, "SELECT count(*) FROM t").await, 0);
    tx.commit().await.unwrap();
    assert_eq!(ask::<i64>(node, "SELECT count(*) FROM t").await, 1);
    nobody_is_left(node).await;

    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut tx).await.unwrap();
    drop(tx);
    nobody_is_left(node).await;
    assert_eq!(ask::<i64>(node, "SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn an_abandoned_query_is_ended_by_the_server_which_looks_each_second() {
    let Lab { cluster, db, .. } = Lab::named("unopened").start_closed().await;
    if !is_since(14, cluster.primary(), "client_connection_check_interval").await {
        return;
    }
    let sleep = tokio::spawn(async move { sqlx::query("SELECT pg_sleep(60)").execute(&db).await });
    flautino_lab::until_running(cluster.primary(), "unopened", "SELECT pg_sleep(60)").await;
    sleep.abort();
    let gone = wait_until("the statement is gone", async || {
        sessions_of(cluster.primary(), "unopened").await == 0
    });
    assert!(gone.await < std::time::Duration::from_secs(10));
}
