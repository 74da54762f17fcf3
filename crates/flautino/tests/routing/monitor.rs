//! The monitor's own connections: few, easily told apart, within bounds, and gone after `close`.

use std::time::{Duration, Instant};

use flautino::{Engine, Health};
use flautino_cluster::{Node, Proxy};
use flautino_lab::{ask, cluster, config, run, sessions_of, wait_until};
use futures_util::future::join_all;
use tokio::net::TcpListener;

use crate::common::{REPLICAS, cascade, open_reading, until_reads_from};

async fn monitors(node: &Node, name: &str) -> i64 {
    sessions_of(node, &format!("{name} (flautino monitor)")).await
}

#[tokio::test]
async fn it_has_one_session_a_node_whatever_the_traffic_and_none_after_close() {
    let cluster = cascade().await;
    let mut config = config(&cluster, "own");
    // One that came late would be asked again over another connection.
    config.routing.probe_timeout = Duration::from_secs(5);
    let engine = open_reading(config, &REPLICAS).await;
    for _ in 0..5 {
        join_all((0..30).map(async |turn| {
            let db = engine.handle();
            if turn % 3 == 0 {
                run(&db, "SELECT pg_advisory_xact_lock(1)").await.unwrap();
                assert!(db.token().await.is_some());
            } else {
                run(&db, "SELECT 1").await.unwrap();
            }
        }))
        .await;
        for node in cluster.nodes() {
            // Reading the catalogue takes another for a moment.
            let count = monitors(node, "own").await;
            assert!((1..=2).contains(&count), "{count}");
            wait_until("there is one", async || monitors(node, "own").await == 1).await;
        }
    }
    let monitoring = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'own%'";
    engine.close().await;
    for node in cluster.nodes() {
        wait_until("no session is left", async || ask::<i64>(node, monitoring).await == 0).await;
    }
    let probes = || -> Vec<_> { engine.status().nodes.iter().map(|node| node.probes).collect() };
    let before = probes();
    tokio::time::sleep(3 * engine.routing().probe_interval).await;
    assert_eq!(probes(), before, "a closed engine asks nobody");

    engine.open().await.unwrap();
    until_reads_from(&engine, &REPLICAS).await;
    assert!(probes().iter().zip(&before).all(|(after, before)| after > before));
    engine.close().await;
    for node in cluster.nodes() {
        wait_until("no session is left", async || ask::<i64>(node, monitoring).await == 0).await;
    }
}

#[tokio::test]
async fn a_node_whose_first_probe_fails_is_known_after_open_all_the_same() {
    let cluster = cluster(1).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(cluster.replica(0).addr()).await.unwrap();
    let mut config = config(&cluster, "again");
    for node in config.extra_nodes.values_mut() {
        node.url = Some(proxy.url());
    }
    config.routing.probe_interval = Duration::from_secs(3600);
    let engine = Engine::new(config).unwrap();
    let (opened, ()) = tokio::join!(engine.open(), async {
        // The first connection looks whether it is there, the second is the monitor's.
        wait_until("it was looked at", async || proxy.accepted() == 1).await;
        proxy.set_target(silent.local_addr().unwrap());
        wait_until("it is probed", async || proxy.accepted() == 2).await;
        proxy.set_target(cluster.replica(0).addr());
    });
    opened.unwrap();
    assert_eq!(engine.status().nodes[1].health, Health::Up);
    engine.close().await;
}

/// Counts probes while `trouble` is made again and again for three seconds.
async fn most_per_second(engine: &Engine, mut trouble: impl AsyncFnMut()) -> Vec<(String, f64)> {
    let probes = || engine.status().nodes.into_iter().map(|node| (node.name, node.probes));
    let before: Vec<_> = probes().collect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(3) {
        trouble().await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let rates = probes().zip(before).map(|((name, after), (_, before))| {
        let number = u32::try_from(after - before).unwrap();
        (name, f64::from(number) / seconds)
    });
    rates.collect()
}

fn assert_at_most_twenty(rates: &[(String, f64)]) {
    // One more for the edges of the time.
    assert!(rates.iter().all(|(_, rate)| *rate <= 20.5), "{rates:?}");
}

#[tokio::test]
async fn errors_and_lost_connections_do_not_make_it_probe_more_than_twenty_times_a_second() {
    let cluster = cluster(1).await;
    let proxy = Proxy::start(cluster.replica(0).addr()).await.unwrap();
    let mut config = config(&cluster, "errors");
    config.extra_nodes.get_mut(REPLICAS[0]).unwrap().url = Some(proxy.url());
    let engine = open_reading(config, &REPLICAS[..1]).await;
    let rates = most_per_second(&engine, async || {
        join_all((0..10).map(async |_| {
            let _ = run(&engine.handle(), "SELECT 1").await;
            let _ = run(&engine.handle().node(REPLICAS[0]).unwrap(), "CREATE TABLE t ()").await;
        }))
        .await;
        proxy.reset().await;
    })
    .await;
    assert_at_most_twenty(&rates);
    // Nor when it is down.
    proxy.cut().await;
    let named = engine.handle().node(REPLICAS[0]).unwrap();
    let rates = most_per_second(&engine, async || {
        let refused = run(&named, "SELECT 1");
        let _ = tokio::time::timeout(Duration::from_millis(20), refused).await;
    })
    .await;
    assert_at_most_twenty(&rates);
    engine.close().await;
}

#[tokio::test]
async fn a_name_that_leads_to_several_servers_does_not_make_it_probe_at_each_connection() {
    let cluster = cluster(2).await;
    let proxy = Proxy::start(cluster.replica(0).addr()).await.unwrap();
    let mut config = config(&cluster, "several");
    config.extra_nodes.remove(REPLICAS[1]);
    config.extra_nodes.get_mut(REPLICAS[0]).unwrap().url = Some(proxy.url());
    let engine = open_reading(config, &REPLICAS[..1]).await;
    // The probes stay with the first, and every new connection leads to the second.
    proxy.set_target(cluster.replica(1).addr());
    let pool = engine.pool(REPLICAS[0]).unwrap();
    let rates = most_per_second(&engine, async || {
        join_all((0..10).map(async |_| drop(pool.acquire().await.unwrap().detach()))).await;
    })
    .await;
    assert_at_most_twenty(&rates);
    engine.close().await;
}
