//! A slow replica gets little to do, and its part again once it is fast; one that came back
//! begins with little.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig, Health};
use flautino_cluster::{Cluster, Proxy};
use flautino_lab::{config, node_of, run, status_of, wait_until};
use futures_util::future::join_all;

use crate::common::{REPLICAS, cascade, open_reading, until_reads_from};

/// What makes a replica slow: so much that a busy machine makes no other as slow. No probe times out.
const ONE_WAY: Duration = Duration::from_millis(400);
/// The part of one of three.
const FAIR: f64 = 1.0 / 3.0;

/// Reads by so many sessions at a time, for so long; answers each node's part of them.
async fn shares(engine: &Engine, sessions: usize, time: Duration) -> BTreeMap<String, f64> {
    let until = Instant::now() + time;
    let all = Cell::new(0.0);
    let counts = join_all((0..sessions).map(async |_| {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        // Enough to count with, also where the machine is busy.
        while Instant::now() < until || all.get() < 100.0 {
            let db = engine.handle();
            run(&db, "SELECT 1").await.unwrap();
            *counts.entry(node_of(&db)).or_default() += 1;
            all.set(all.get() + 1.0);
        }
        counts
    }));
    let mut sum: BTreeMap<String, f64> = BTreeMap::new();
    for (node, number) in counts.await.into_iter().flatten() {
        *sum.entry(node).or_default() += f64::from(number);
    }
    sum.into_iter().map(|(node, number)| (node, number / all.get())).collect()
}

fn share(shares: &BTreeMap<String, f64>, node: &str) -> f64 {
    shares.get(node).copied().unwrap_or(0.0)
}

/// A proxy before each replica, so that all are equally far; the second replica's is the one to
/// play with.
struct Proxied {
    proxies: Vec<Proxy>,
    engine: Engine,
}

impl Proxied {
    async fn start(name: &str, cluster: &Cluster, change: impl FnOnce(&mut EngineConfig)) -> Self {
        let mut config = config(cluster, name);
        change(&mut config);
        let mut proxies = Vec::new();
        for (replica, config) in cluster.nodes().skip(1).zip(config.extra_nodes.values_mut()) {
            let proxy = Proxy::start(replica.addr()).await.unwrap();
            config.url = Some(proxy.url());
            proxies.push(proxy);
        }
        Self { proxies, engine: open_reading(config, &REPLICAS).await }
    }

    fn proxy(&self) -> &Proxy {
        &self.proxies[1]
    }

    async fn until_health(&self, health: Health) {
        let what = format!("it is {health:?}");
        wait_until(&what, async || status_of(&self.engine, REPLICAS[1]).health == health).await;
    }

    /// Waits until each replica has about its part.
    async fn until_even(&self, sessions: usize) {
        wait_until("each has its part", async || {
            let shares = shares(&self.engine, sessions, Duration::from_millis(500)).await;
            share(&shares, REPLICAS[1]) > FAIR / 2.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_replica_that_turns_slow_gets_less_than_a_fifth_of_its_part_and_all_of_it_again_later() {
    let cluster = cascade().await;
    let proxied =
        Proxied::start("slow", &cluster, |config| config.routing.probe_timeout = ONE_WAY * 30)
            .await;
    let (proxy, engine) = (proxied.proxy(), &proxied.engine);
    for sessions in [1, 8] {
        proxied.until_even(sessions).await;
        proxy.slow(ONE_WAY);
        wait_until("it is known to be slow", async || {
            u128::from(status_of(engine, REPLICAS[1]).latency_us) > ONE_WAY.as_micros()
        })
        .await;
        let slow = shares(engine, sessions, Duration::from_secs(2)).await;
        assert!(share(&slow, REPLICAS[1]) < FAIR / 5.0, "{sessions} sessions: {slow:?}");
        assert_eq!(status_of(engine, REPLICAS[1]).health, Health::Up, "slow is not dead");
        proxy.heal().unwrap();
        proxied.until_even(sessions).await;
    }
    engine.close().await;
}

#[tokio::test]
async fn a_replica_that_comes_back_begins_with_less_than_half_of_its_part() {
    let cluster = cascade().await;
    let proxied = Proxied::start("back", &cluster, |_| {}).await;
    let (proxy, engine) = (proxied.proxy(), &proxied.engine);
    proxied.until_even(4).await;
    proxy.cut().await;
    proxied.until_health(Health::Down).await;
    let without = shares(engine, 4, Duration::from_millis(300)).await;
    assert!(share(&without, REPLICAS[1]) < f64::EPSILON, "{without:?}");

    proxy.heal().unwrap();
    proxied.until_health(Health::Up).await;
    let first = shares(engine, 4, Duration::from_secs(1)).await;
    let first = share(&first, REPLICAS[1]);
    assert!(first < FAIR / 2.0, "{first} in the first second");
    proxied.until_even(4).await;
    engine.close().await;
}

#[tokio::test]
async fn one_that_answers_and_fails_by_turns_stays_out() {
    let cluster = cascade().await;
    let proxied =
        Proxied::start("flapping", &cluster, |config| config.routing.answers_to_up = 3).await;
    let (proxy, engine) = (proxied.proxy(), &proxied.engine);
    let probed = async || {
        let before = status_of(engine, REPLICAS[1]).probes;
        wait_until("it was probed", async || status_of(engine, REPLICAS[1]).probes > before).await;
    };
    proxy.cut().await;
    proxied.until_health(Health::Down).await;
    for _ in 0..4 {
        // It answers one or two probes, and is gone again.
        proxy.heal().unwrap();
        probed().await;
        proxy.cut().await;
        probed().await;
        assert_eq!(status_of(engine, REPLICAS[1]).health, Health::Down);
        for _ in 0..20 {
            let db = engine.handle();
            run(&db, "SELECT 1").await.unwrap();
            assert_ne!(node_of(&db), REPLICAS[1]);
        }
    }
    proxy.heal().unwrap();
    until_reads_from(engine, &REPLICAS).await;
    engine.close().await;
}
