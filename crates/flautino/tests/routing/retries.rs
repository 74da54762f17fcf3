//! Retries are bounded, and can be turned off.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flautino::Engine;
use flautino::router::Reason;
use flautino_cluster::{Cluster, Proxy};
use flautino_lab::{ask, cluster, config, open, run, sqlstate, until_running, wait_until};
use sqlx::AssertSqlSafe;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::common::{MAIN, REPLICAS, open_reading};

/// Calls this function for whatever runs the text anywhere, until so many sessions have met it;
/// answers how many there were.
async fn call(cluster: &Cluster, function: &str, name: &str, sql: &str, sessions: usize) -> usize {
    let statement = format!(
        "SELECT pid, {function}(pid) FROM pg_stat_activity \
         WHERE application_name = '{name}' AND state = 'active' AND query = '{sql}'"
    );
    // One may be found again before it is gone.
    let mut met = BTreeSet::new();
    let started = Instant::now();
    while met.len() < sessions && started.elapsed() < Duration::from_secs(10) {
        for node in cluster.nodes() {
            let mut connection = node.connect().await.unwrap();
            let found = sqlx::query_as::<_, (i32, bool)>(AssertSqlSafe(statement.as_str()))
                .fetch_all(&mut connection)
                .await
                .unwrap();
            met.extend(found.into_iter().map(|(pid, _)| (node.port(), pid)));
        }
        tokio::task::yield_now().await;
    }
    met.len()
}

/// Ends so many sessions that run this text.
async fn terminate(cluster: &Cluster, name: &str, sql: &str, sessions: usize) -> usize {
    call(cluster, "pg_terminate_backend", name, sql, sessions).await
}

#[tokio::test]
async fn without_retries_the_error_comes_through() {
    let cluster = cluster(2).await;
    let mut config = config(&cluster, "zero");
    config.routing.retries = 0;
    let engine = open_reading(config, &REPLICAS[..2]).await;
    let sql = "SELECT pg_sleep(9)";
    let db = engine.handle().recorded();
    let (read, ended) = tokio::join!(run(&db, sql), terminate(&cluster, "zero", sql, 1));
    assert_eq!(ended, 1);
    assert_eq!(sqlstate(&read.unwrap_err()), "57P01");
    assert_eq!(db.timings().len(), 1);
    engine.close().await;
}

#[tokio::test]
async fn a_read_that_every_node_loses_fails_after_so_many_retries() {
    let cluster = cluster(2).await;
    for retries in [1, 2, 4] {
        let name = format!("r{retries}");
        let mut config = config(&cluster, &name);
        config.routing.retries = retries;
        let engine = open_reading(config, &REPLICAS[..2]).await;
        let sql = format!("SELECT pg_sleep(20), {retries}");
        let db = engine.handle().recorded();
        let attempts = usize::try_from(retries).unwrap() + 1;
        let (read, ended) =
            tokio::join!(run(&db, &sql), terminate(&cluster, &name, &sql, attempts));
        assert_eq!(ended, attempts);
        assert_eq!(sqlstate(&read.unwrap_err()), "57P01");
        let reasons: Vec<_> = db.timings().into_iter().map(|timing| timing.reason).collect();
        assert_eq!(reasons.len(), attempts, "{reasons:?}");
        assert!(reasons[1..].iter().all(|reason| *reason == Reason::Retried), "{reasons:?}");
        // No node is tried twice before the others.
        let mut nodes: Vec<_> = db.timings().into_iter().map(|timing| timing.node).collect();
        nodes.truncate(3);
        nodes.sort();
        let tried = nodes.len();
        nodes.dedup();
        assert_eq!(nodes.len(), tried, "{nodes:?}");
        engine.close().await;
    }
}

#[tokio::test]
async fn with_every_node_broken_reads_and_writes_fail_in_bounded_time() {
    let cluster = cluster(2).await;
    let mut config = config(&cluster, "broken");
    let mut proxies = Vec::new();
    for (node, config) in
        cluster.nodes().zip([&mut config.main].into_iter().chain(config.extra_nodes.values_mut()))
    {
        let proxy = Proxy::start(node.addr()).await.unwrap();
        config.url = Some(proxy.url());
        proxies.push(proxy);
    }
    config.pool.acquire_timeout = Duration::from_secs(1);
    config.routing.failover_timeout = Duration::from_secs(1);
    let engine = open_reading(config, &REPLICAS[..2]).await;
    // Cut: nobody listens. Stalled: they listen, and say nothing.
    for stalled in [false, true] {
        for proxy in &proxies {
            if stalled {
                proxy.stall();
            } else {
                proxy.cut().await;
            }
        }
        for sql in ["SELECT 1", "CREATE TABLE t (a int)"] {
            for _ in 0..3 {
                let started = Instant::now();
                run(&engine.handle(), sql).await.unwrap_err();
                let elapsed = started.elapsed();
                assert!(elapsed < Duration::from_secs(8), "{sql}, stalled {stalled}: {elapsed:?}");
            }
        }
        for proxy in &proxies {
            proxy.heal().unwrap();
        }
        crate::common::until_reads_from(&engine, &REPLICAS[..2]).await;
    }
    engine.close().await;
}

#[tokio::test]
async fn an_error_of_the_statement_s_own_is_not_tried_again() {
    let cluster = cluster(2).await;
    let mut config = config(&cluster, "own");
    for node in [&mut config.main].into_iter().chain(config.extra_nodes.values_mut()) {
        node.statement_timeout = Some(Duration::from_millis(300));
    }
    let engine = open_reading(config, &REPLICAS[..2]).await;
    for (sql, code) in [
        ("SELECT 1 / 0", "22012"),
        ("SELECT 'x'::int", "22P02"),
        ("SELECT nothing FROM", "42601"),
        ("SELECT pg_sleep(5)", "57014"),
    ] {
        let db = engine.handle().recorded();
        assert_eq!(sqlstate(&run(&db, sql).await.unwrap_err()), code);
        assert_eq!(db.timings().len(), 1, "{sql}: {:?}", db.timings());
    }
    // What a replica does not know yet, the primary may know; once.
    for sql in ["SELECT nothing", "SELECT 1 FROM nowhere"] {
        let db = engine.handle().recorded();
        run(&db, sql).await.unwrap_err();
        let [first, second] = &db.timings()[..] else { panic!("{sql}: {:?}", db.timings()) };
        assert_eq!((first.reason, second.reason), (Reason::NoFloor, Reason::Rescued));
        assert_eq!(&*second.node, MAIN);
    }
    engine.close().await;
}

#[tokio::test]
async fn a_read_that_somebody_cancels_is_not_tried_again() {
    let cluster = cluster(2).await;
    let engine = open_reading(config(&cluster, "cancelled"), &REPLICAS[..2]).await;
    let sql = "SELECT pg_sleep(20)";
    let db = engine.handle().recorded();
    let cancel = call(&cluster, "pg_cancel_backend", "cancelled", sql, 1);
    let (read, met) = tokio::join!(run(&db, sql), cancel);
    assert_eq!(met, 1);
    assert_eq!(sqlstate(&read.unwrap_err()), "57014");
    assert_eq!(db.timings().len(), 1);
    engine.close().await;
}

/// A write whose session the server ends while it runs, and the primary's way, which leads to nobody
/// from now on. Sessions that stand are not concerned: over the monitor's own all looks well.
async fn ended_write(name: &str) -> (Cluster, Proxy, Engine, JoinHandle<Result<(), sqlx::Error>>) {
    let cluster = cluster(1).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = config(&cluster, name);
    config.main.url = Some(proxy.url());
    let engine = open(config).await;
    let sql = "INSERT INTO t SELECT 1 FROM pg_sleep(3)";
    let db = engine.handle();
    let write = tokio::spawn(async move { run(&db, sql).await });
    until_running(cluster.primary(), name, sql).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    proxy.set_target(nobody);
    assert_eq!(terminate(&cluster, name, sql, 1).await, 1);
    (cluster, proxy, engine, write)
}

#[tokio::test]
async fn a_server_that_ends_a_write_and_takes_no_new_session_shuts_down_and_the_write_waits() {
    let (cluster, proxy, engine, write) = ended_write("stops").await;
    wait_until("it was asked over a new connection", async || {
        assert!(!write.is_finished());
        engine.status().primary.is_none()
    })
    .await;
    proxy.set_target(cluster.primary().addr());
    write.await.unwrap().unwrap();
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await, 1);
    engine.close().await;
}
