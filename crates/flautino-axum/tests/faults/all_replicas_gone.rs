//! All replicas are gone: reads go on at the primary, with their share of its connections, and
//! writes keep the rest.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use flautino::Engine;
use flautino_cluster::Node;
use flautino_lab::wait_until;
use futures_util::future::join_all;

use crate::common::{MAIN, REPLICAS, Rig};
use crate::load::Load;

/// Half of the ten connections of a pool: both are defaults.
const SHARE: i64 = 5;
const LONG: &str = "SELECT count(*) FROM (SELECT pg_sleep(0.1)) AS long";

/// Forty readers, three reads each, many more than there are connections; answers the most that the
/// primary was seen to run at once, of reads of any kind.
async fn crowd(engine: &Engine, primary: &Node) -> i64 {
    let (done, most) = (AtomicBool::new(false), AtomicI64::new(0));
    let mut connection = primary.connect().await.unwrap();
    let reads = async {
        join_all((0..40).map(async |_| {
            for _ in 0..3 {
                let db = engine.handle();
                let count: i64 = sqlx::query_scalar(LONG).fetch_one(&db).await.unwrap();
                assert_eq!(count, 1);
                assert_eq!(db.served_by().as_deref(), Some(MAIN));
            }
        }))
        .await;
        done.store(true, Ordering::Relaxed);
    };
    let watch = async {
        // The server copies its sessions one after the other, and may count one that ends and its
        // successor. Who is too many stays for as long as there is a queue, and so is in each of
        // three samples.
        let mut last = [0; 3];
        while !done.load(Ordering::Relaxed) {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
                       AND application_name = 'gone' AND query LIKE '%pg_sleep%'";
            let now: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
            last = [last[1], last[2], now];
            most.fetch_max(last.into_iter().min().unwrap(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::join!(reads, watch);
    most.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_replicas_gone_reads_take_their_share_of_the_primary_and_writes_keep_theirs() {
    let rig = Rig::start("gone", 2).await;
    let load = Load::start(&rig);
    load.a_while().await;
    for replica in [0, 1] {
        rig.cluster.replica(replica).kill().await.unwrap();
        load.a_while().await;
    }
    for replica in REPLICAS {
        rig.until_down(replica).await;
    }
    let before = load.writes();
    let most = crowd(&rig.engine, rig.cluster.primary()).await;
    let written = load.writes() - before;
    println!("{most} reads at once, {written} writes meanwhile");
    assert!((2..=SHARE).contains(&most), "{most} reads at once");
    assert!(written > 100, "{written} writes meanwhile");
    for (replica, name) in REPLICAS.iter().enumerate() {
        rig.cluster.replica(replica).start().await.unwrap();
        rig.until_serves(name).await;
    }
    // What only reads is no longer for the primary.
    wait_until("reads are served by replicas", async || {
        let db = rig.engine.handle();
        sqlx::query("SELECT 1").execute(&db).await.unwrap();
        db.served_by().as_deref() != Some(MAIN)
    })
    .await;
    load.a_while().await;
    let tally = load.stop().await;
    tally.assert_no_read_failed();
    tally.assert_writes_untouched();
    tally.assert_ledger(rig.cluster.primary()).await;
    rig.stop().await;
}
