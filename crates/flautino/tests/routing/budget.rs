//! When the primary serves in place of replicas, it does so with a part of its connections, and
//! writes keep the rest.

use std::cell::Cell;
use std::time::Duration;

use flautino::router::Reason;
use flautino::{Engine, TransactionOptions};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{catch_up, config, node_of, run, wait_until};
use futures_util::future::join_all;
use sqlx::PgConnection;

use crate::common::{MAIN, REPLICAS, cascade, decisions, open_reading, until_reads_from};

const LONG: &str = "SELECT count(*), pg_sleep(0.2) FROM t";
/// As long at a primary, and endless at a replica.
const ENDLESS_ON_REPLICAS: &str = "SELECT count(*), pg_sleep(CASE current_setting('transaction_read_only') \
     WHEN 'on' THEN 600 ELSE 0.2 END) FROM t";
const READERS: usize = 80;

/// How many sessions of the primary run this text now.
async fn reading(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE query = $1 AND state = 'active'",
    )
    .bind(sql)
    .fetch_one(connection)
    .await
    .unwrap()
}

/// What reads and writes got from the primary.
struct Served {
    /// Reads that ran at once.
    most_reads: i64,
    writes: u32,
    /// Reads that ended while one write waited or ran.
    most_overtaken: usize,
}

/// Eighty readers of this text, and writers all the while.
async fn load(engine: &Engine, primary: &Node, sql: &str) -> Served {
    // What is measured is the wait, and not how long connecting takes.
    let connections = join_all((0..10).map(|_| engine.handle().acquire())).await;
    assert!(connections.iter().all(Result::is_ok));
    drop(connections);
    let done = Cell::new(0);
    let most = Cell::new(0);
    let mut watching = primary.connect().await.unwrap();
    let reads = join_all((0..READERS).map(async |_| {
        let db = engine.handle();
        run(&db, sql).await.unwrap();
        assert_eq!(node_of(&db), MAIN);
        done.set(done.get() + 1);
    }));
    let watch = async {
        while done.get() < READERS {
            // One look takes in a session that ends and another that begins after it.
            let (one, other) =
                (reading(&mut watching, sql).await, reading(&mut watching, sql).await);
            most.set(most.get().max(one.min(other)));
        }
    };
    let writers = join_all((0..5).map(async |_| {
        let (mut writes, mut overtaken) = (0, 0);
        while done.get() < READERS {
            let before = done.get();
            run(&engine.handle(), "INSERT INTO w VALUES (1)").await.unwrap();
            overtaken = overtaken.max(done.get() - before);
            writes += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (writes, overtaken)
    }));
    let (_, (), writers) = tokio::join!(reads, watch, writers);
    Served {
        most_reads: most.get(),
        writes: writers.iter().map(|(writes, _)| writes).sum(),
        most_overtaken: writers.iter().map(|(_, overtaken)| *overtaken).max().unwrap(),
    }
}

/// Behind the reads, each writer would write once or twice, and wait for nearly all of them.
fn assert_writes_go_through(Served { writes, most_overtaken, .. }: &Served) {
    assert!(*writes > 20, "{writes} writes");
    assert!(*most_overtaken < READERS / 2, "{most_overtaken} reads ended while a write waited");
}

async fn with_tables() -> Cluster {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int); CREATE TABLE w (a int)").await.unwrap();
    catch_up(&cluster).await;
    cluster
}

#[tokio::test]
async fn with_all_replicas_behind_reads_take_half_of_the_primary_and_writes_go_through() {
    let cluster = with_tables().await;
    let mut config = config(&cluster, "behind");
    assert_eq!((config.pool.max_connections, config.routing.fallback_share), (10, 0.5));
    config.pool.acquire_timeout = Duration::from_secs(20);
    let engine = open_reading(config, &REPLICAS).await;
    for replica in cluster.nodes().skip(1) {
        replica.pause_replay().await.unwrap();
    }
    cluster.primary().execute("INSERT INTO w VALUES (0)").await.unwrap();
    until_reads_from(&engine, &[MAIN]).await;
    let served = load(&engine, cluster.primary(), LONG).await;
    assert!((2..=5).contains(&served.most_reads), "{} reads at once", served.most_reads);
    assert_writes_go_through(&served);
    assert!(decisions(&engine, Reason::Lagging) >= 80);
    engine.close().await;
}

#[tokio::test]
async fn with_all_replicas_gone_too_and_the_share_is_what_is_configured() {
    let cluster = with_tables().await;
    let mut config = config(&cluster, "gone");
    config.pool.acquire_timeout = Duration::from_secs(20);
    config.routing.fallback_share = 0.39;
    let engine = open_reading(config, &REPLICAS).await;
    for replica in cluster.nodes().skip(1) {
        replica.kill().await.unwrap();
    }
    until_reads_from(&engine, &[MAIN]).await;
    let served = load(&engine, cluster.primary(), LONG).await;
    // Three of ten are not above 39 percent.
    assert!((2..=3).contains(&served.most_reads), "{} reads at once", served.most_reads);
    assert_writes_go_through(&served);
    engine.close().await;
}

#[tokio::test]
async fn read_only_transactions_and_replica_handles_keep_to_the_budget_too() {
    let cluster = with_tables().await;
    let mut config = config(&cluster, "transactions");
    config.pool.max_connections = 4;
    config.pool.acquire_timeout = Duration::from_secs(1);
    let engine = open_reading(config, &REPLICAS).await;
    for replica in cluster.nodes().skip(1) {
        replica.kill().await.unwrap();
    }
    until_reads_from(&engine, &[MAIN]).await;
    let options = TransactionOptions { read_only: true, ..TransactionOptions::default() };
    let one = engine.handle().begin_with(options.clone()).await.unwrap();
    let two = engine.handle().replica().begin_with(options.clone()).await.unwrap();
    assert_eq!((one.node(), two.node()), (MAIN, MAIN));
    for db in [engine.handle(), engine.handle().replica()] {
        let refused = db.begin_with(options.clone()).await.err().unwrap();
        let overloaded = flautino::Error::of(&refused);
        assert!(matches!(overloaded, Some(flautino::Error::Overloaded { .. })), "{refused}");
        run(&db, "SELECT 1").await.unwrap_err();
        run(&db.primary(), "SELECT 1").await.unwrap();
        run(&db.primary(), "INSERT INTO w VALUES (1)").await.unwrap();
    }
    one.rollback().await.unwrap();
    drop(two);
    wait_until("their part of the budget is free again", async || {
        engine.handle().begin_with(options.clone()).await.is_ok()
    })
    .await;
    engine.close().await;
}

/// Ends whatever the replicas run of the endless read, again and again.
async fn end_endless_reads(cluster: &Cluster) {
    let mut replicas = Vec::new();
    for replica in cluster.nodes().skip(1) {
        replicas.push(replica.connect().await.unwrap());
    }
    loop {
        for replica in &mut replicas {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE query = $1 AND state = 'active'";
            sqlx::query(end).bind(ENDLESS_ON_REPLICAS).execute(replica).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_all_its_replicas_lost_is_read_within_the_budget_too() {
    let cluster = with_tables().await;
    let mut config = config(&cluster, "lost");
    assert_eq!((config.pool.max_connections, config.routing.retries), (10, 2));
    config.pool.acquire_timeout = Duration::from_secs(60);
    let engine = open_reading(config, &REPLICAS).await;
    let served = tokio::select! {
        served = load(&engine, cluster.primary(), ENDLESS_ON_REPLICAS) => served,
        () = end_endless_reads(&cluster) => unreachable!(),
    };
    assert!((2..=5).contains(&served.most_reads), "{} reads at once", served.most_reads);
    assert_writes_go_through(&served);
    assert!(decisions(&engine, Reason::Retried) >= 40);
    engine.close().await;
}

#[tokio::test]
async fn a_read_that_is_dropped_while_it_waits_or_runs_gives_its_part_back() {
    let cluster = with_tables().await;
    let mut config = config(&cluster, "dropped");
    config.pool.max_connections = 2;
    let engine = open_reading(config, &REPLICAS).await;
    for replica in cluster.nodes().skip(1) {
        replica.kill().await.unwrap();
    }
    until_reads_from(&engine, &[MAIN]).await;
    for _ in 0..10 {
        let (first, second) = (engine.handle(), engine.handle());
        let sql = "SELECT pg_sleep(30)";
        let both = async { tokio::join!(run(&first, sql), run(&second, sql)) };
        let _ = tokio::time::timeout(Duration::from_millis(50), both).await;
    }
    run(&engine.handle(), "SELECT 1").await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn reads_that_wait_for_their_part_go_to_replicas_that_are_back() {
    let cluster = with_tables().await;
    let mut config = config(&cluster, "back");
    config.pool.acquire_timeout = Duration::from_secs(30);
    // One connection.
    config.routing.fallback_share = 0.1;
    let engine = open_reading(config, &REPLICAS).await;
    for replica in cluster.nodes().skip(1) {
        replica.pause_replay().await.unwrap();
    }
    cluster.primary().execute("INSERT INTO w VALUES (0)").await.unwrap();
    until_reads_from(&engine, &[MAIN]).await;
    let mut watching = cluster.primary().connect().await.unwrap();
    let story = async {
        wait_until("one reads", async || reading(&mut watching, LONG).await == 1).await;
        for replica in cluster.nodes().skip(1) {
            replica.resume_replay().await.unwrap();
        }
    };
    // One after the other they would take a minute, and twice their patience.
    let reads = join_all((0..300).map(async |_| {
        let db = engine.handle();
        run(&db, LONG).await.unwrap();
        node_of(&db)
    }));
    let (nodes, ()) = tokio::join!(reads, story);
    let elsewhere = nodes.iter().filter(|node| **node != MAIN).count();
    assert!(elsewhere > 200, "{elsewhere} of 300 reads went elsewhere");
    engine.close().await;
}
