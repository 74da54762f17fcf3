//! The server goes away or changes its role, and the engine goes on without being reopened.

use std::time::Duration;

use flautino::Handle;
use flautino_cluster::Proxy;
use flautino_lab::{Lab, ask, cluster, config, open, sqlstate, wait_until};
use futures_util::future::join_all;

async fn select_1(db: &Handle) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT 1").fetch_one(db).await
}

#[tokio::test]
async fn after_a_restart_of_the_server_queries_work_without_reopening() {
    let Lab { cluster, engine, db, .. } = Lab::named("restart").start().await;
    for fast in [true, false] {
        let warm = join_all((0..5).map(|_| db.acquire())).await;
        drop(warm);
        join_all((0..5).map(|_| select_1(&db))).await;
        if fast {
            cluster.primary().restart().await.unwrap();
        } else {
            cluster.primary().kill().await.unwrap();
            cluster.primary().start().await.unwrap();
        }
        wait_until("the server accepts", async || cluster.primary().connect().await.is_ok()).await;
        let mut failures = 0;
        for _ in 0..10 {
            failures += i32::from(select_1(&db).await.is_err());
        }
        assert!(failures <= 1, "{failures} of 10 statements failed after the restart");
        assert_eq!(select_1(&db).await.unwrap(), 1);
    }
    engine.close().await;
}

#[tokio::test]
async fn while_the_server_is_down_queries_fail_in_time_and_afterwards_they_work() {
    let Lab { cluster, engine, db, .. } = Lab::named("down")
        .config(|config| config.pool.acquire_timeout = Duration::from_millis(500))
        .start()
        .await;
    cluster.primary().stop_immediate().await.unwrap();
    for _ in 0..3 {
        let failed = tokio::time::timeout(Duration::from_secs(3), select_1(&db)).await;
        failed.expect("in time").unwrap_err();
    }
    cluster.primary().start().await.unwrap();
    wait_until("queries work again", async || select_1(&db).await.is_ok()).await;
    engine.close().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_an_error_in_time_and_afterwards_queries_work() {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = config(&cluster, "cut");
    config.main.url = Some(proxy.url());
    config.pool.acquire_timeout = Duration::from_millis(500);
    let engine = open(config).await;
    let db = engine.handle();
    select_1(&db).await.unwrap();
    proxy.reset().await;
    let failures = [select_1(&db).await.is_err(), select_1(&db).await.is_err()];
    assert_eq!(failures.iter().filter(|failed| **failed).count().max(1), 1, "{failures:?}");
    proxy.cut().await;
    select_1(&db).await.unwrap_err();
    let err = select_1(&db).await.unwrap_err();
    let said = ["main", "refused", "reset"].iter().any(|word| err.to_string().contains(word));
    assert!(said, "{err}");
    proxy.heal().unwrap();
    wait_until("queries work again", async || select_1(&db).await.is_ok()).await;
    engine.close().await;
}

#[tokio::test]
async fn after_the_first_write_that_a_demoted_primary_refuses_the_next_reach_the_new_one() {
    let cluster = cluster(1).await;
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    primary.execute("CREATE TABLE t (a int)").await.unwrap();
    replica.catch_up_with(primary).await.unwrap();
    let proxy = Proxy::start(primary.addr()).await.unwrap();
    let mut config = config(&cluster, "demoted");
    config.extra_nodes.clear();
    config.main.url = Some(proxy.url());
    let engine = open(config).await;
    let db = engine.handle();

    // The name leads to a server in recovery: as after a failover that was not noticed.
    proxy.set_target(replica.addr());
    proxy.reset().await;
    let write = async || sqlx::query("INSERT INTO t VALUES (1)").execute(&db).await;
    let _ = write().await;
    let leases = join_all((0..5).map(|_| db.acquire())).await;
    drop(leases);
    join_all((0..5).map(|_| select_1(&db))).await;
    // And now to the primary, while the connections to the other are fine.
    proxy.set_target(primary.addr());
    let mut refused = 0;
    for _ in 0..20 {
        match write().await {
            Ok(_) => {}
            Err(err) => {
                assert_eq!(sqlstate(&err), "25006");
                refused += 1;
            }
        }
    }
    assert!(refused <= 1, "{refused} of 20 writes were refused");
    assert!(ask::<i64>(primary, "SELECT count(*) FROM t").await >= 19);

    let mut tx = db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    engine.close().await;
}
