//! Replay on a replica is paused, cut off, or late on purpose: it leaves the rotation, and floors
//! hold all the while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flautino_cluster::Node;
use flautino_lab::wait_until;

use crate::common::{REPLICAS, Rig, SLACK};
use crate::load::{Load, Op, Tally};

/// The default.
const MAX_LAG: Duration = Duration::from_secs(10);
/// The age of what the monitor last saw.
const PROBE: Duration = Duration::from_secs(1);

/// Reads how old the newest row is, by any session, until told to stop; answers the oldest, in
/// seconds, and by whom it was read.
async fn oldest_read(rig: &Rig, stop: &AtomicBool) -> (f64, String) {
    let mut oldest = (0.0, String::new());
    while !stop.load(Ordering::Relaxed) {
        let db = rig.engine.handle();
        let sql = "SELECT extract(epoch FROM clock_timestamp() - max(at))::float8 FROM entries";
        let age: f64 = sqlx::query_scalar(sql).fetch_one(&db).await.unwrap();
        if age > oldest.0 {
            oldest = (age, db.served_by().unwrap().to_string());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    oldest
}

/// The second replica is brought to lag and cured, under load; `within` it leaves the rotation.
async fn lags(rig: &Rig, fault: impl AsyncFn(&Node), cure: impl AsyncFn(&Node)) -> (Tally, f64) {
    let load = Load::start(rig);
    load.a_while().await;
    let stop = AtomicBool::new(false);
    let story = async {
        let victim = rig.cluster.replica(1);
        fault(victim).await;
        wait_until("it says why it is not used", async || rig.status(REPLICAS[1]).reason.is_some())
            .await;
        println!("it says: {:?}", rig.status(REPLICAS[1]).reason);
        // What was decided a moment before may still arrive.
        load.a_while().await;
        let sent = rig.status(REPLICAS[1]).statements;
        load.a_while().await;
        assert_eq!(rig.status(REPLICAS[1]).statements, sent, "it is not in the rotation");
        cure(victim).await;
        rig.until_serves(REPLICAS[1]).await;
        wait_until("it is used again", async || rig.status(REPLICAS[1]).statements > sent).await;
        load.a_while().await;
        stop.store(true, Ordering::Relaxed);
    };
    let ((oldest, by), ()) = tokio::join!(oldest_read(rig, &stop), story);
    println!("the oldest answer was {oldest} s old, of {by}");
    (load.stop().await, oldest)
}

/// The newest row is so old where the writers paused, whoever is asked.
fn longest_pause(tally: &Tally) -> Duration {
    let mut ends: Vec<_> = tally.writes().filter(|op| op.is_done()).map(Op::ended).collect();
    ends.sort();
    let gaps = ends.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}

async fn verify(tally: &Tally, rig: &Rig) {
    tally.assert_no_read_failed();
    tally.assert_writes_untouched();
    tally.assert_ledger(rig.cluster.primary()).await;
}

async fn set(node: &Node, sql: &'static str) {
    node.execute(sql).await.unwrap();
    node.execute("SELECT pg_reload_conf()").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_replay_is_paused_leaves_the_rotation_and_floors_hold() {
    let rig = Rig::start("paused", 2).await;
    let pause = async |node: &Node| node.pause_replay().await.unwrap();
    let resume = async |node: &Node| node.resume_replay().await.unwrap();
    let (tally, oldest) = lags(&rig, pause, resume).await;
    verify(&tally, &rig).await;
    let most = PROBE + 2 * SLACK + longest_pause(&tally);
    assert!(oldest < most.as_secs_f64(), "an answer was {oldest} s old, of {most:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_from_the_primary_leaves_the_rotation_and_floors_hold() {
    let rig = Rig::start("cut_off", 2).await;
    let cut = async |node: &Node| {
        set(node, "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'").await;
    };
    let cure = async |node: &Node| set(node, "ALTER SYSTEM RESET primary_conninfo").await;
    let (tally, oldest) = lags(&rig, cut, cure).await;
    verify(&tally, &rig).await;
    let most = MAX_LAG + PROBE + longest_pause(&tally);
    assert!(oldest < most.as_secs_f64(), "an answer was {oldest} s old, of {most:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_applies_late_on_purpose_leaves_the_rotation_and_floors_hold() {
    let rig = Rig::start("late", 2).await;
    let late = async |node: &Node| {
        set(node, "ALTER SYSTEM SET recovery_min_apply_delay = '1h'").await;
    };
    let cure = async |node: &Node| set(node, "ALTER SYSTEM RESET recovery_min_apply_delay").await;
    let (tally, oldest) = lags(&rig, late, cure).await;
    verify(&tally, &rig).await;
    let most = MAX_LAG + PROBE + longest_pause(&tally);
    assert!(oldest < most.as_secs_f64(), "an answer was {oldest} s old, of {most:?}");
    rig.stop().await;
}
