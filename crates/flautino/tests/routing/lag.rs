//! A replica that lags leaves the rotation; what only looks like lag does not count.

use std::time::Duration;

use flautino::router::Reason;
use flautino::{Engine, NodeStatus};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{ask, catch_up, config, reader, status_of, wait_until};

use crate::common::{MAIN, REPLICAS, cascade, decisions, open_reading, until_reads_from, why};

const MAX_LAG: Duration = Duration::from_secs(3);

async fn start(name: &str) -> (Cluster, Engine) {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let engine = start_on(&cluster, name).await;
    (cluster, engine)
}

async fn start_on(cluster: &Cluster, name: &str) -> Engine {
    catch_up(cluster).await;
    let mut config = config(cluster, name);
    config.routing.max_lag = MAX_LAG;
    config.routing.probe_interval = Duration::from_millis(200);
    open_reading(config, &REPLICAS).await
}

async fn write(primary: &Node) {
    primary.execute("INSERT INTO t VALUES (1)").await.unwrap();
}

async fn until_status(engine: &Engine, name: &str, what: &str, is: impl Fn(&NodeStatus) -> bool) {
    wait_until(what, async || is(&status_of(engine, name))).await;
}

fn is_over(lag_ms: Option<u64>) -> bool {
    lag_ms.is_some_and(|lag| Duration::from_millis(lag) > MAX_LAG)
}

fn says(status: &NodeStatus, word: &str) -> bool {
    status.reason.as_deref().is_some_and(|reason| reason.contains(word))
}

#[tokio::test]
async fn a_paused_replica_leaves_once_it_is_behind_and_comes_back() {
    let (cluster, engine) = start("paused").await;
    cluster.replica(1).pause_replay().await.unwrap();
    // Paused with nothing to replay is as good as any.
    until_status(&engine, REPLICAS[1], "it was probed", |status| status.probes > 10).await;
    until_reads_from(&engine, &REPLICAS).await;
    write(cluster.primary()).await;
    until_reads_from(&engine, &[REPLICAS[0], REPLICAS[2]]).await;
    until_status(&engine, REPLICAS[1], "it says that it is paused", |status| {
        says(status, "paused") && status.lag_bytes.is_some_and(|bytes| bytes > 0)
    })
    .await;
    cluster.replica(1).resume_replay().await.unwrap();
    until_reads_from(&engine, &REPLICAS).await;
    assert_eq!(status_of(&engine, REPLICAS[1]).reason, None);
    engine.close().await;
}

#[tokio::test]
async fn a_paused_standby_takes_the_one_that_cascades_from_it_along_only_if_that_lags() {
    let (cluster, engine) = start("cascading").await;
    // Pausing replay of the first does not keep it from passing the log on.
    cluster.replica(0).pause_replay().await.unwrap();
    write(cluster.primary()).await;
    cluster.replica(2).catch_up_with(cluster.primary()).await.unwrap();
    until_reads_from(&engine, &[REPLICAS[1], REPLICAS[2]]).await;
    engine.close().await;
}

#[tokio::test]
async fn a_replica_that_applies_late_on_purpose_leaves_beyond_max_lag() {
    let (cluster, engine) = start("late").await;
    let late = "ALTER SYSTEM SET recovery_min_apply_delay = '1h'";
    cluster.replica(1).execute(late).await.unwrap();
    cluster.replica(1).execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("it is behind", async || {
        write(cluster.primary()).await;
        reader(&engine).await.unwrap();
        let status = status_of(&engine, REPLICAS[1]);
        is_over(status.lag_ms)
    })
    .await;
    until_reads_from(&engine, &[REPLICAS[0], REPLICAS[2]]).await;
    until_status(&engine, REPLICAS[1], "it says why", |status| {
        says(status, "lags") && says(status, "recovery_min_apply_delay")
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn an_idle_primary_is_no_lag() {
    let (cluster, engine) = start("idle").await;
    write(cluster.primary()).await;
    catch_up(&cluster).await;
    let first = status_of(&engine, MAIN).probes;
    assert_eq!(status_of(&engine, MAIN).lag_ms, Some(0));
    // Probes are 160 ms apart at least, so this is twice as long as `max_lag`.
    until_status(&engine, MAIN, "much time has passed", |status| status.probes > first + 40).await;
    let before = decisions(&engine, Reason::NoFloor);
    for _ in 0..100 {
        assert_ne!(reader(&engine).await.unwrap(), MAIN);
    }
    assert_eq!(decisions(&engine, Reason::NoFloor), before + 100);
    for name in REPLICAS {
        let status = status_of(&engine, name);
        assert_eq!(status.lag_ms, Some(0), "{status:?}");
    }
    engine.close().await;
}

/// A read that fails after it has set hint bits: its log is flushed by whoever comes next, and that
/// may be in half a minute. Answers whether it left any.
async fn leave_unflushed(primary: &Node, table: &str) -> bool {
    primary.execute("CHECKPOINT").await.unwrap();
    let failing = format!("SELECT 1 / (count(*) - 1000) FROM {table}");
    primary.execute(&failing).await.unwrap_err();
    is_ahead_of_its_files(primary).await
}

async fn is_ahead_of_its_files(primary: &Node) -> bool {
    ask(primary, "SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()").await
}

#[tokio::test]
async fn log_that_the_primary_does_not_flush_is_no_lag() {
    let cluster = cascade().await;
    let tables: Vec<String> = (0..10).map(|number| format!("u{number}")).collect();
    // Made before the engine is opened, which reads the catalogue anew after each change of it: a
    // read that succeeds gets its hint bits flushed, and what is before them.
    for table in &tables {
        let create = format!("CREATE TABLE {table} AS SELECT generate_series(1, 1000)");
        cluster.primary().execute(&create).await.unwrap();
    }
    let engine = start_on(&cluster, "unflushed").await;
    // Something else may flush it too early: what it shows, it shows in one of a few turns.
    for table in &tables {
        if !leave_unflushed(cluster.primary(), table).await {
            continue;
        }
        let probed = status_of(&engine, MAIN).probes;
        let before = decisions(&engine, Reason::NoFloor);
        let mut reads = 0;
        // Longer than `max_lag`.
        until_status(&engine, MAIN, "time has passed", |status| status.probes > probed + 22).await;
        while status_of(&engine, MAIN).probes < probed + 28 {
            assert_ne!(reader(&engine).await.unwrap(), MAIN, "{:#?}", engine.status());
            reads += 1;
        }
        if is_ahead_of_its_files(cluster.primary()).await {
            for status in REPLICAS.map(|name| status_of(&engine, name)) {
                assert!(status.lag_bytes.is_some_and(|bytes| bytes > 0), "{status:?}");
                assert_eq!(status.lag_ms, Some(0), "{status:?}");
            }
            assert_eq!(decisions(&engine, Reason::NoFloor), before + reads);
            engine.close().await;
            return;
        }
    }
    panic!("the log was flushed each time");
}

#[tokio::test]
async fn a_replica_cut_off_from_a_primary_that_writes_leaves_after_max_lag() {
    let (cluster, engine) = start("cut_off").await;
    // It receives nothing more, and so has nothing left to replay.
    let nowhere = "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'";
    cluster.replica(1).execute(nowhere).await.unwrap();
    cluster.replica(1).execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("it is cut off", async || {
        let receivers = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        ask::<i64>(cluster.replica(1), receivers).await == 0
    })
    .await;
    write(cluster.primary()).await;
    until_reads_from(&engine, &[REPLICAS[0], REPLICAS[2]]).await;
    until_status(&engine, REPLICAS[1], "it says why", |status| {
        says(status, "lags") && is_over(status.lag_ms)
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn a_dead_primary_s_frozen_position_proves_nothing_and_reads_go_on() {
    let (cluster, engine) = start("dead").await;
    write(cluster.primary()).await;
    catch_up(&cluster).await;
    until_reads_from(&engine, &REPLICAS).await;
    cluster.primary().kill().await.unwrap();
    wait_until("the reads are called stale", async || {
        let (node, reason) = why(&engine.handle().recorded(), "SELECT 1").await;
        assert_ne!(node, MAIN);
        reason == Reason::Stale
    })
    .await;
    for _ in 0..50 {
        let (node, reason) = why(&engine.handle().recorded(), "SELECT 1").await;
        assert_ne!(node, MAIN);
        assert_eq!(reason, Reason::Stale);
    }
    for name in REPLICAS {
        let status = status_of(&engine, name);
        // How much the primary wrote after it was last heard of, nobody knows.
        assert_ne!(status.lag_ms, Some(0), "{status:?}");
    }
    engine.close().await;
}
