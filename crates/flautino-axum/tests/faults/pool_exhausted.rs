//! Every connection is in use: what comes waits `acquire_timeout`, then is told 503, and nobody is
//! called dead.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flautino::{Engine, Error, Health, Lease};
use flautino_lab::wait_until;
use futures_util::future::join_all;

use crate::common::{MAIN, REPLICAS, Rig, SLACK};

/// Both are defaults.
const MOST: usize = 10;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Every connection of the node, in use by somebody.
async fn hold_all(engine: &Engine, node: &str) -> Vec<Lease> {
    let db = engine.handle().node(node).unwrap();
    let leases = join_all((0..MOST).map(|_| db.acquire())).await;
    let mut leases: Vec<_> = leases.into_iter().map(Result::unwrap).collect();
    for lease in &mut leases {
        sqlx::query("SELECT 1").execute(lease).await.unwrap();
    }
    leases
}

fn in_time(took: Duration) -> bool {
    // Who waits twice takes ten seconds.
    (ACQUIRE_TIMEOUT..ACQUIRE_TIMEOUT + 8 * SLACK).contains(&took)
}

/// A request that is to be told, in time, to come again later.
async fn is_told_to_wait(request: reqwest::RequestBuilder) {
    let started = Instant::now();
    let answer = request.send().await.unwrap();
    let took = started.elapsed();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    assert!(in_time(took), "{took:?}");
}

async fn fails_in_time(engine: &Engine, sql: &'static str) {
    let started = Instant::now();
    let failed = sqlx::query(sql).execute(&engine.handle()).await.unwrap_err();
    let took = started.elapsed();
    assert!(matches!(Error::of(&failed), Some(Error::AcquireTimeout { .. })), "{failed}");
    assert!(in_time(took), "{took:?}: {failed}");
}

/// Looks at all nodes all the time, until told to stop.
async fn nobody_is_called_dead(rig: &Rig, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let status = rig.engine.status();
        for node in &status.nodes {
            assert_eq!(node.health, Health::Up, "{status:#?}");
        }
        assert_eq!(status.primary.as_deref(), Some(MAIN));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn all_work(rig: &Rig) {
    for name in REPLICAS {
        rig.until_serves(name).await;
    }
    // All of each pool at once, so that none is lost.
    for name in [MAIN].iter().chain(&REPLICAS) {
        drop(hold_all(&rig.engine, name).await);
    }
    wait_until("nothing is in flight", async || {
        rig.engine.status().nodes.iter().all(|node| node.in_flight == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_wait_for_the_primary_and_are_told_503_and_reads_go_on_at_replicas() {
    let rig = Rig::start("exhausted", 2).await;
    let http = reqwest::Client::new();
    let held = hold_all(&rig.engine, MAIN).await;
    let stop = AtomicBool::new(false);
    let writes = async {
        let url = |path: &str, id: i64| format!("{}/{path}/{id}", rig.app.url);
        let posts = (1..=10).flat_map(|id| [url("ids", id), url("tx", 100 + id)]);
        let posts = posts.map(|url| is_told_to_wait(http.post(url)));
        let statements =
            (0..5).map(|_| fails_in_time(&rig.engine, "INSERT INTO entries VALUES (7)"));
        tokio::join!(join_all(posts), join_all(statements));
        stop.store(true, Ordering::Relaxed);
    };
    let reads = async {
        let mut reads = 0;
        while !stop.load(Ordering::Relaxed) {
            let answer = http.get(format!("{}/ids/1", rig.app.url)).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            sqlx::query("SELECT 1").execute(&rig.engine.handle()).await.unwrap();
            reads += 1;
        }
        reads
    };
    let (reads, ..) = tokio::join!(reads, nobody_is_called_dead(&rig, &stop), writes);
    assert!(reads > 100, "{reads}");
    drop(held);
    all_work(&rig).await;
    let stored: i64 =
        flautino_lab::ask(rig.cluster.primary(), "SELECT count(*) FROM entries").await;
    assert_eq!(stored, 0, "what was told 503 was done");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_pool_exhausted_reads_wait_as_long_and_are_told_503() {
    let rig = Rig::start("exhausted", 2).await;
    let http = reqwest::Client::new();
    let mut held = Vec::new();
    for name in [MAIN].iter().chain(&REPLICAS) {
        held.push(hold_all(&rig.engine, name).await);
    }
    let stop = AtomicBool::new(false);
    let reads = async {
        let get = |id| http.get(format!("{}/ids/{id}", rig.app.url));
        let gets = join_all((0..20).map(|id| is_told_to_wait(get(id))));
        let statements = join_all((0..10).map(|_| fails_in_time(&rig.engine, "SELECT 1")));
        tokio::join!(gets, statements);
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(reads, nobody_is_called_dead(&rig, &stop));
    drop(held);
    all_work(&rig).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_served_as_soon_as_a_connection_is_free() {
    let rig = Rig::start("exhausted", 2).await;
    let http = reqwest::Client::new();
    let mut held = Vec::new();
    for name in [MAIN].iter().chain(&REPLICAS) {
        held.push(hold_all(&rig.engine, name).await);
    }
    let waiting = (1..=20).map(|id| {
        let url = format!("{}/ids/{id}", rig.app.url);
        let request = if id % 2 == 0 { http.post(url) } else { http.get(url) };
        tokio::spawn(request.send())
    });
    let waiting: Vec<_> = waiting.collect();
    wait_until("all wait", async || {
        let in_flight = rig.engine.status().nodes.iter().map(|node| node.in_flight).sum::<u32>();
        in_flight == 50
    })
    .await;
    drop(held);
    let freed = Instant::now();
    for answer in waiting {
        assert!(answer.await.unwrap().unwrap().status().is_success());
    }
    // Who is not told waits for `ACQUIRE_TIMEOUT`.
    assert!(freed.elapsed() < ACQUIRE_TIMEOUT - 2 * SLACK, "{:?}", freed.elapsed());
    all_work(&rig).await;
    rig.stop().await;
}
