//! Connections to replicas are lost in every way, and no read fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flautino::Engine;
use flautino::router::Reason;
use flautino_cluster::Proxy;
use flautino_lab::{ask, cluster, config, node_of, number, status_of, wait_until};
use futures_util::future::join_all;

use crate::common::{
    MAIN, REPLICAS, cascade, decisions, open_default, open_reading, until_reads_from,
};

const SLOW: &str = "SELECT count(*) FROM (SELECT pg_sleep(0.01) FROM generate_series(1, 5)) s";

/// Six sessions that read until they are told to stop; answers how many reads there were, and
/// those that failed.
async fn read_until(engine: &Engine, stop: &AtomicBool) -> (usize, Vec<String>) {
    let sessions = join_all((0..6).map(async |session| {
        let (mut reads, mut failed) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let db = engine.handle();
            let (sql, rows) = if session % 2 == 0 { (SLOW, 5) } else { ("SELECT 1::int8", 1) };
            match number(&db, sql).await {
                Ok(answer) if answer == rows => {}
                other => failed.push(format!("{sql} on {}: {other:?}", node_of(&db))),
            }
            reads += 1;
        }
        (reads, failed)
    }));
    let sessions = sessions.await;
    let reads = sessions.iter().map(|(reads, _)| reads).sum();
    (reads, sessions.into_iter().flat_map(|(_, failed)| failed).collect())
}

fn none(failed: &[String]) {
    assert!(failed.is_empty(), "{} failed: {:#?}", failed.len(), &failed[..failed.len().min(5)]);
}

#[tokio::test]
async fn sessions_that_are_terminated_again_and_again_cost_no_read() {
    let cluster = cascade().await;
    let engine = open_default(&cluster, "terminated").await;
    let stop = AtomicBool::new(false);
    let terminate = async {
        let mut ended = 0;
        for _ in 0..30 {
            // The default is two retries, so two of the three.
            for replica in [0, 1] {
                ended += ask::<i64>(
                    cluster.replica(replica),
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE application_name = 'terminated'",
                )
                .await;
            }
        }
        stop.store(true, Ordering::Relaxed);
        ended
    };
    let ((reads, failed), ended) = tokio::join!(read_until(&engine, &stop), terminate);
    assert!(ended > 20 && reads > 20, "{ended} sessions were ended, {reads} reads");
    none(&failed);
    assert!(decisions(&engine, Reason::Retried) > 0);
    engine.close().await;
}

#[tokio::test]
async fn a_network_that_resets_connections_costs_no_read() {
    let cluster = cascade().await;
    let proxy = Proxy::start(cluster.replica(0).addr()).await.unwrap();
    let mut config = config(&cluster, "reset");
    config.extra_nodes.get_mut(REPLICAS[0]).unwrap().url = Some(proxy.url());
    let engine = open_reading(config, &REPLICAS).await;
    let stop = AtomicBool::new(false);
    let resets = async {
        for _ in 0..20 {
            let before = status_of(&engine, REPLICAS[0]).statements;
            wait_until("it is used", async || {
                let now = status_of(&engine, REPLICAS[0]).statements;
                now > before || status_of(&engine, REPLICAS[0]).reason.is_some()
            })
            .await;
            proxy.reset().await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let ((reads, failed), ()) = tokio::join!(read_until(&engine, &stop), resets);
    assert!(reads > 20, "{reads}");
    none(&failed);
    engine.close().await;
}

#[tokio::test]
async fn a_replica_that_is_killed_and_comes_back_costs_no_read() {
    let cluster = cascade().await;
    let engine = open_default(&cluster, "killed").await;
    let stop = AtomicBool::new(false);
    let kill = async {
        for _ in 0..2 {
            cluster.replica(1).kill().await.unwrap();
            wait_until("it is known to be down", async || {
                status_of(&engine, REPLICAS[1]).reason.is_some()
            })
            .await;
            cluster.replica(1).start().await.unwrap();
            let before = status_of(&engine, REPLICAS[1]).statements;
            wait_until("it is used again", async || {
                status_of(&engine, REPLICAS[1]).statements > before
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let ((reads, failed), ()) = tokio::join!(read_until(&engine, &stop), kill);
    assert!(reads > 50, "{reads}");
    none(&failed);
    until_reads_from(&engine, &REPLICAS).await;
    engine.close().await;
}

#[tokio::test]
async fn a_read_for_a_replica_that_the_primary_runs_is_run_again_too() {
    let cluster = cluster(1).await;
    let mut config = config(&cluster, "in_place");
    config.routing.max_lag = Duration::from_secs(1);
    let engine = open_reading(config, &REPLICAS[..1]).await;
    cluster.replica(0).pause_replay().await.unwrap();
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    until_reads_from(&engine, &[MAIN]).await;
    let db = engine.handle().replica();
    let story = async {
        let ending = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                      WHERE application_name = 'in_place' AND state = 'active'";
        let ended = async || ask::<i64>(cluster.primary(), ending).await == 1;
        wait_until("its session is ended", ended).await;
    };
    let sql = "SELECT count(*) FROM (SELECT pg_sleep(3)) s";
    let (read, ()) = tokio::join!(number(&db, sql), story);
    assert_eq!(read.unwrap(), 1);
    engine.close().await;
}
