//! A replica resets its connections, is slow, or comes and goes: no read fails, it serves little
//! until it is steady, and writes do not notice.

use std::time::{Duration, Instant};

use flautino::Health;
use flautino_lab::wait_until;

use crate::common::{REPLICAS, Rig};
use crate::load::{Load, Tally};

/// What each of the two replicas has been sent.
fn sent(rig: &Rig) -> [u64; 2] {
    REPLICAS.map(|name| rig.status(name).statements)
}

/// The second replica's part of so many statements more of the first; 0.5 is its fair one.
async fn part(rig: &Rig, statements: u64) -> f64 {
    let before = sent(rig);
    wait_until("the other serves", async || sent(rig)[0] >= before[0] + statements).await;
    let now = sent(rig);
    let [first, second] = [0, 1].map(|n| (now[n] - before[n]) as f64);
    second / (first + second)
}

/// The part of all reads, at the most, of a node that came back so long ago. It is asked first, since
/// it has the least to do, and takes a tenth of that at the beginning and all of it after ten seconds.
/// On top comes what the other one has not replayed yet, and chance.
fn share_after(time: Duration) -> f64 {
    let taken = 0.1 + 0.9 * (time.as_secs_f64() / 2.0) / 10.0;
    taken.min(1.0) + 0.1
}

async fn verify(tally: &Tally, rig: &Rig) {
    tally.assert_no_read_failed();
    tally.assert_writes_untouched();
    tally.assert_ledger(rig.cluster.primary()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_all_connections_to_a_replica_cost_no_read() {
    let (rig, proxies) = Rig::behind_proxies("resets", 2).await;
    let load = Load::start(&rig);
    load.a_while().await;
    for _ in 0..20 {
        let before = sent(&rig)[1];
        wait_until("it is used", async || {
            sent(&rig)[1] > before + 5 || rig.status(REPLICAS[1]).reason.is_some()
        })
        .await;
        proxies[1].reset().await;
    }
    load.a_while().await;
    rig.until_serves(REPLICAS[1]).await;
    load.a_while().await;
    verify(&load.stop().await, &rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_replica_serves_little_until_it_is_fast_again_and_is_not_called_dead() {
    // So slow that a busy machine makes no other node as slow, and no probe times out.
    const ONE_WAY: Duration = Duration::from_millis(400);
    let (rig, proxies) = Rig::behind_proxies_with("slow", 2, |config| {
        config.routing.probe_timeout = ONE_WAY * 30;
    })
    .await;
    let load = Load::start(&rig);
    wait_until("each has its part", async || part(&rig, 200).await > 0.3).await;
    proxies[1].slow(ONE_WAY);
    wait_until("it is known to be slow", async || {
        u128::from(rig.status(REPLICAS[1]).latency_us) > ONE_WAY.as_micros()
    })
    .await;
    let slow = part(&rig, 300).await;
    println!("its part while it is slow: {slow}");
    // With no regard to how slow it is, it would be a half.
    assert!(slow < 0.2, "its part is {slow}");
    assert_eq!(rig.status(REPLICAS[1]).health, Health::Up, "slow is not dead");
    proxies[1].heal().unwrap();
    wait_until("each has its part again", async || part(&rig, 200).await > 0.3).await;
    verify(&load.stop().await, &rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_comes_and_goes_serves_little_until_it_stays() {
    let (rig, proxies) = Rig::behind_proxies("flaps", 2).await;
    let load = Load::start(&rig);
    wait_until("each has its part", async || part(&rig, 200).await > 0.3).await;
    for _ in 0..4 {
        proxies[1].cut().await;
        load.a_while().await;
        rig.until_down(REPLICAS[1]).await;
        rig.is_not_chosen(REPLICAS[1], &load).await;
        proxies[1].heal().unwrap();
        rig.until_serves(REPLICAS[1]).await;
        let since = Instant::now();
        let back = part(&rig, 300).await;
        let share = share_after(since.elapsed());
        println!("its part when it is back: {back}; it may have {share}");
        assert!(back < share, "its part is {back}, of {share}, as soon as it is back");
    }
    wait_until("each has its part again", async || part(&rig, 200).await > 0.3).await;
    verify(&load.stop().await, &rig).await;
    rig.stop().await;
}
