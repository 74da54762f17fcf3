//! Nodes that come and go under load: no reader and no writer fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flautino::Engine;
use flautino_lab::{cluster, node_of, number, run};

use crate::common::{COUNT, INSERT, eager, open_with, set, these, until_no_sessions, with_table};

/// Readers and writers that go on until they are told to stop, and what they met.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(engine: &Engine) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for number in 0..8 {
            let (engine, stop, done) = (engine.clone(), Arc::clone(&stop), Arc::clone(&done));
            tasks.push(tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let db = engine.handle();
                    let result = match number % 4 {
                        0 => write_and_see(&db).await,
                        1 => db
                            .transaction(async |tx| {
                                sqlx::query(INSERT).execute(&mut *tx).await.map(drop)
                            })
                            .await
                            .map_err(|error| error.to_string()),
                        _ => run(&db, COUNT).await.map_err(|error| error.to_string()),
                    };
                    failures.extend(result.err().map(|error| format!("{}: {error}", node_of(&db))));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failures
            }));
        }
        Self { stop, done, tasks }
    }

    async fn so_many(&self, more: u64) {
        let wanted = self.done.load(Ordering::Relaxed) + more;
        flautino_lab::wait_until("the load went on", async || {
            self.done.load(Ordering::Relaxed) >= wanted
        })
        .await;
    }

    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap());
        }
        failures
    }
}

/// A session that sees its own write.
async fn write_and_see(db: &flautino::Handle) -> Result<(), String> {
    let text = |error: sqlx::Error| error.to_string();
    let sql = "INSERT INTO t VALUES (2) RETURNING (SELECT count(*) FROM t)";
    let before: i64 = sqlx::query_scalar(sql).fetch_one(db).await.map_err(text)?;
    let after: i64 = sqlx::query_scalar(COUNT).fetch_one(db).await.map_err(text)?;
    if after > before { Ok(()) } else { Err(format!("{after} rows after {before} and one")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_and_writers_notice_nothing() {
    let cluster = with_table(cluster(3).await).await;
    let engine = open_with(&cluster, "load", &[0], eager).await;
    let load = Load::start(&engine);
    let sets = [&[0, 1][..], &[0, 1, 2], &[2], &[2, 1], &[0], &[1], &[0, 2]];
    for round in 0..21 {
        set(&engine, these(&cluster, "load", sets[round % sets.len()])).await;
        load.so_many(40).await;
    }
    let failures = load.stop().await;
    assert!(failures.is_empty(), "{}: {:?}", failures.len(), &failures[..failures.len().min(5)]);
    engine.close().await;
    for server in cluster.nodes() {
        until_no_sessions(server, "load").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_when_the_first_replica_comes_and_the_last_one_goes() {
    let cluster = with_table(cluster(1).await).await;
    let engine = open_with(&cluster, "zero", &[], eager).await;
    let load = Load::start(&engine);
    for _ in 0..10 {
        set(&engine, these(&cluster, "zero", &[0])).await;
        load.so_many(40).await;
        set(&engine, these(&cluster, "zero", &[])).await;
        load.so_many(40).await;
    }
    let failures = load.stop().await;
    assert!(failures.is_empty(), "{}: {:?}", failures.len(), &failures[..failures.len().min(5)]);
    assert!(number(&engine.handle(), COUNT).await.unwrap() > 0);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_when_the_very_first_replica_comes_to_a_fresh_engine() {
    let cluster = with_table(cluster(1).await).await;
    for _ in 0..8 {
        let engine = open_with(&cluster, "fresh", &[], eager).await;
        let load = Load::start(&engine);
        load.so_many(20).await;
        set(&engine, these(&cluster, "fresh", &[0])).await;
        load.so_many(60).await;
        let failures = load.stop().await;
        assert!(
            failures.is_empty(),
            "{}: {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
        engine.close().await;
    }
}
