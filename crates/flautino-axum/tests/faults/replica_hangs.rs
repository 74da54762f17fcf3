//! A replica hangs, or the network swallows its packets: it is soon out of use, what waited on it is
//! run elsewhere, no read fails, and writes do not notice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flautino::Health;
use flautino_lab::wait_until;
use futures_util::future::join_all;

use crate::common::{DOWN_WITHIN, REPLICAS, Rig, SLACK};
use crate::load::{Load, Tally, assert_none};

/// Waits until the second replica is known to be down, and checks how long that took.
async fn soon_down(rig: &Rig, load: &Load, since: Instant) {
    wait_until("it is known to be down", async || {
        let status = rig.status(REPLICAS[1]);
        status.health == Health::Down && status.reason.is_some()
    })
    .await;
    let now = Instant::now();
    let took = now - since - load.pulse.stalled(since, now);
    println!("down after {took:?}");
    assert!(took < DOWN_WITHIN + SLACK, "down after {took:?}");
}

async fn until_used(rig: &Rig) {
    let used = rig.status(REPLICAS[1]).statements;
    wait_until("it is used", async || rig.status(REPLICAS[1]).statements > used + 20).await;
}

async fn verify(tally: &Tally, rig: &Rig) {
    tally.assert_no_read_failed();
    tally.assert_writes_untouched();
    // Who waits for the node itself waits for five seconds, or for ever.
    let most = DOWN_WITHIN + 3 * SLACK;
    assert_none("slow reads", tally.reads().filter(|op| tally.was_slow(op, most)));
    let waited = tally.reads().filter(|op| op.took > SLACK).count();
    assert!(waited > 0, "no read waited on the node, so this test tests nothing");
    tally.assert_ledger(rig.cluster.primary()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_is_down_in_time_and_what_waits_on_it_is_run_elsewhere() {
    let rig = Rig::start("hangs", 2).await;
    let load = Load::start(&rig);
    load.a_while().await;
    for _ in 0..2 {
        until_used(&rig).await;
        rig.cluster.replica(1).hang().await.unwrap();
        soon_down(&rig, &load, Instant::now()).await;
        rig.is_not_chosen(REPLICAS[1], &load).await;
        rig.cluster.replica(1).resume().await.unwrap();
        rig.until_serves(REPLICAS[1]).await;
    }
    load.a_while().await;
    verify(&load.stop().await, &rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_packets_are_swallowed_is_down_in_time_and_reads_are_run_elsewhere() {
    let (rig, proxies) = Rig::behind_proxies("swallowed", 2).await;
    let load = Load::start(&rig);
    load.a_while().await;
    for _ in 0..2 {
        until_used(&rig).await;
        proxies[1].stall();
        soon_down(&rig, &load, Instant::now()).await;
        rig.is_not_chosen(REPLICAS[1], &load).await;
        proxies[1].heal().unwrap();
        rig.until_serves(REPLICAS[1]).await;
    }
    load.a_while().await;
    verify(&load.stop().await, &rig).await;
    rig.stop().await;
}

/// The worst moment: a probe is under way, and a statement was answered after it began, so that the
/// probe's own failure says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_while_a_probe_is_under_way_is_down_in_time_too() {
    let (rig, proxies) = Rig::behind_proxies("worst", 2).await;
    let proxy = &proxies[1];
    let stop = AtomicBool::new(false);
    let answers = AtomicUsize::new(0);
    // Reads of that very node, so many that one ends every few milliseconds.
    let readers = join_all((0..8).map(async |n| {
        tokio::time::sleep(Duration::from_millis(n * 15)).await;
        while !stop.load(Ordering::Relaxed) {
            let db = rig.engine.handle().node(REPLICAS[1]).unwrap();
            if sqlx::query("SELECT 1").execute(&db).await.is_ok() {
                answers.fetch_add(1, Ordering::Relaxed);
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }));
    let story = async {
        let mut all = Vec::new();
        for _ in 0..3 {
            proxy.slow(Duration::from_millis(60));
            rig.until_serves(REPLICAS[1]).await;
            let start = answers.load(Ordering::Relaxed);
            wait_until("it answers", async || answers.load(Ordering::Relaxed) > start + 20).await;
            let probes = rig.status(REPLICAS[1]).probes;
            while rig.status(REPLICAS[1]).probes == probes {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // It was sent, and its answer is far.
            let before = answers.load(Ordering::Relaxed);
            while answers.load(Ordering::Relaxed) < before + 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            proxy.stall();
            let since = Instant::now();
            rig.until_down(REPLICAS[1]).await;
            all.push(since.elapsed());
            proxy.heal().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        all
    };
    let (_, all) = tokio::join!(readers, story);
    println!("down after {all:?}");
    // The best of three, so that a busy machine is no excuse.
    let best = *all.iter().min().unwrap();
    assert!(best < DOWN_WITHIN + SLACK / 2, "down after {all:?}");
    rig.stop().await;
}
