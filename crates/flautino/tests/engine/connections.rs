//! Which connection serves next: clean ones again, broken ones never.

use std::time::{Duration, Instant};

use flautino::{Engine, Handle};
use flautino_cluster::{Cluster, Proxy};
use flautino_lab::{
    cluster, config, end_sessions, open, pid, polled_at_most, sessions_of, sqlstate,
    until_sessions, wait_until,
};
use futures_util::future::join_all;

const PID: &str = "SELECT pg_backend_pid()";

async fn with_connections(max: u32, name: &str) -> (Cluster, Proxy, Engine, Handle) {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = config(&cluster, name);
    config.main.url = Some(proxy.url());
    config.pool.max_connections = max;
    let engine = open(config).await;
    let db = engine.handle();
    (cluster, proxy, engine, db)
}

#[tokio::test]
async fn a_clean_connection_serves_again_and_an_error_of_a_statement_keeps_it() {
    let (cluster, proxy, engine, db) = with_connections(1, "clean").await;
    cluster.primary().execute("CREATE TABLE t (a int UNIQUE)").await.unwrap();
    proxy.reset_counters();
    let first = pid(&db).await;
    for (sql, state) in [
        ("SELEC 1", "42601"),
        ("SELECT nothing", "42703"),
        ("INSERT INTO t VALUES (1), (1)", "23505"),
        ("SELECT 1 / 0", "22012"),
    ] {
        let err = sqlx::query(sql).execute(&db).await.unwrap_err();
        assert_eq!(sqlstate(&err), state, "{sql}");
        assert_eq!(pid(&db).await, first, "{sql}");
    }
    let mut lease = db.acquire().await.unwrap();
    sqlx::query("SELECT nothing").execute(&mut lease).await.unwrap_err();
    drop(lease);
    assert_eq!(pid(&db).await, first);
    assert_eq!(proxy.accepted(), 0);
    engine.close().await;
}

#[tokio::test]
async fn a_backend_that_was_terminated_costs_one_error_at_the_most_and_is_not_lent_again() {
    let (cluster, _proxy, engine, db) = with_connections(1, "ended").await;
    let old = pid(&db).await;
    end_sessions(cluster.primary(), &format!("pid = {old}")).await;
    let _ = sqlx::query(PID).execute(&db).await;
    for _ in 0..3 {
        assert_ne!(pid(&db).await, old);
    }
    engine.close().await;
}

#[tokio::test]
async fn acquires_cancelled_at_saturation_cause_no_reconnection() {
    let (_cluster, proxy, engine, db) = with_connections(2, "saturated").await;
    let leases = [db.acquire().await.unwrap(), db.acquire().await.unwrap()];
    proxy.reset_counters();
    for round in 0..200_usize {
        let waiting = (0..3).map(|_| {
            polled_at_most(1 + round % 3, async {
                tokio::time::timeout(Duration::from_millis(1), db.acquire()).await.is_ok()
            })
        });
        join_all(waiting).await;
    }
    drop(leases);
    let work = (0..50).map(|_| pid(&db));
    join_all(work).await;
    // Cancelled just as a slot comes free.
    for polls in 1..5 {
        let held = [db.acquire().await.unwrap(), db.acquire().await.unwrap()];
        let acquire = db.acquire();
        let (cancelled, ()) = tokio::join!(polled_at_most(polls, acquire), async {
            tokio::task::yield_now().await;
            drop(held);
        });
        drop(cancelled);
        pid(&db).await;
    }
    assert_eq!(proxy.accepted(), 0);
    assert_eq!(engine.status().nodes[0].in_flight, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_connection_that_rested_is_pinged_once_and_a_warm_one_never() {
    let (_cluster, proxy, engine, db) = with_connections(1, "warm").await;
    pid(&db).await;
    proxy.reset_counters();
    wait_until("it is warm no more", async || engine.status().nodes[0].pool.unwrap().warm == 0)
        .await;
    assert_eq!(proxy.round_trips(), 0);
    pid(&db).await;
    assert_eq!(proxy.round_trips(), 2);
    assert_eq!(proxy.accepted(), 0);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_uses_a_pg_pool_gets_a_turn_while_the_engine_is_busy() {
    let (_cluster, _proxy, engine, db) = with_connections(2, "turns").await;
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                loop {
                    sqlx::query("SELECT 1").execute(&db).await.unwrap();
                }
            })
        })
        .collect();
    let pool = engine.pool("main").unwrap();
    for _ in 0..3 {
        let started = Instant::now();
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&pool).await.unwrap();
        assert_eq!(one, 1);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
    for task in &busy {
        assert!(!task.is_finished(), "the engine's queries go on too");
        task.abort();
    }
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_sessions_than_the_pool_allows() {
    let (cluster, proxy, engine, db) = with_connections(4, "bound").await;
    proxy.reset_counters();
    // The one that `open` looked at the server with ends by itself.
    until_sessions(cluster.primary(), "bound", 1).await;
    let work: Vec<_> = (0..40)
        .map(|index| {
            let db = db.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let sql = if index % 5 == 0 { "SET work_mem = '5MB'" } else { PID };
                    sqlx::query(sql).execute(&db).await.unwrap();
                }
            })
        })
        .collect();
    let mut most = 0;
    while !work.iter().all(tokio::task::JoinHandle::is_finished) {
        most = most.max(sessions_of(cluster.primary(), "bound").await);
    }
    for task in work {
        task.await.unwrap();
    }
    assert!((1..=4).contains(&most), "{most}");
    // Three to fill the pool. Where a reset takes long, a signal is sent over one beside.
    assert!(proxy.accepted() <= 20, "{} new connections", proxy.accepted());
    engine.close().await;
}
