//! A replica hangs, or the network swallows its packets: it is soon out of use, what waited on it is
//! run elsewhere, no read fails, and writes do not notice.

use std::time::Instant;

use flautino::Health;
use flautino_tests::wait_until;

use crate::common::{AT_ONCE, DOWN_WITHIN, REPLICAS, Rig, SLACK};
use crate::load::{Load, Tally};

/// Waits until the second replica is known to be down, and checks how long that took.
async fn soon_down(rig: &Rig, since: Instant) {
    wait_until("it is known to be down", async || {
        let status = rig.status(REPLICAS[1]);
        status.health == Health::Down && status.reason.is_some()
    })
    .await;
    let took = since.elapsed();
    println!("down after {took:?}");
    assert!(took < DOWN_WITHIN + SLACK, "down after {took:?}");
}

async fn until_used(rig: &Rig) {
    let used = rig.status(REPLICAS[1]).statements;
    wait_until("it is used", async || rig.status(REPLICAS[1]).statements > used + 20).await;
}

async fn not_used_while_down(rig: &Rig, load: &Load) {
    let sent = rig.status(REPLICAS[1]).statements;
    load.a_while().await;
    assert_eq!(rig.status(REPLICAS[1]).statements, sent, "it is down, and was sent statements");
}

async fn verify(tally: &Tally, rig: &Rig) {
    tally.assert_no_read_failed();
    tally.assert_writes_untouched();
    let longest = Tally::longest(tally.reads());
    assert!(longest < DOWN_WITHIN + SLACK + AT_ONCE, "a read took {longest:?}");
    let waited = tally.reads().filter(|op| op.took > AT_ONCE / 2).count();
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
        soon_down(&rig, Instant::now()).await;
        not_used_while_down(&rig, &load).await;
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
        soon_down(&rig, Instant::now()).await;
        not_used_while_down(&rig, &load).await;
        proxies[1].heal().unwrap();
        rig.until_serves(REPLICAS[1]).await;
    }
    load.a_while().await;
    verify(&load.stop().await, &rig).await;
    rig.stop().await;
}
