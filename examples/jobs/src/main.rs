//! A job carries the token of the session that made it, so that the worker sees what that session
//! wrote, whichever node it reads from.
//!
//! Run with `cargo run -p jobs`. It starts a throwaway cluster with one replica, shows which node
//! serves the worker while the replica is behind and when it is not, and removes the cluster.

use std::{error::Error, time::Duration};

use flautino::{Engine, EngineConfig, Handle, NodeConfig, Token};
use flautino_cluster::Cluster;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{Receiver, Sender, channel};

type Failure = Box<dyn Error + Send + Sync>;

/// A job, which goes through the queue as JSON.
#[derive(Serialize, Deserialize)]
struct Job {
    order: i64,
    /// Covers what the worker must see. `None` where nothing was written.
    token: Option<Token>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    tokio::select! {
        shown = show() => shown,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?), // drops `show` and its cluster
    }
}

async fn show() -> Result<(), Failure> {
    let cluster = Cluster::builder().replicas(1).start().await?;
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    primary.execute("CREATE TABLE orders (id bigserial PRIMARY KEY, item text)").await?;
    replica.catch_up_with(primary).await?;
    let mut config = EngineConfig::from_url(&primary.url())?;
    let node = NodeConfig { url: Some(replica.url()), ..NodeConfig::default() };
    config.extra_nodes.insert("read_replica_1".into(), node);
    let engine = Engine::new(config)?;
    engine.open().await?;
    let (queue, jobs) = channel(16);
    let (results, mut done) = channel(16);
    let worker = tokio::spawn(work(engine.clone(), jobs, results));
    replica.pause_replay().await?;
    let job = order(&engine.handle(), "flute").await?;
    println!("queued: {job}");
    queue.send(job.clone()).await?;
    println!("the replica is paused: {}", done.recv().await.unwrap_or_default());
    replica.resume_replay().await?;
    while engine.status().nodes[1].lag_bytes != Some(0) {
        tokio::time::sleep(Duration::from_millis(50)).await; // until the monitor has seen it
    }
    queue.send(job).await?;
    println!("it has caught up: {}", done.recv().await.unwrap_or_default());
    drop(queue); // ends the worker
    worker.await??;
    engine.close().await;
    cluster.stop().await;
    Ok(())
}

/// Writes an order, and returns the job that goes with it.
async fn order(db: &Handle, item: &str) -> Result<String, Failure> {
    let insert = sqlx::query_scalar("INSERT INTO orders (item) VALUES ($1) RETURNING id");
    let order = insert.bind(item).fetch_one(db).await?;
    Ok(serde_json::to_string(&Job { order, token: db.token().await })?)
}

async fn work(
    engine: Engine,
    mut jobs: Receiver<String>,
    results: Sender<String>,
) -> Result<(), Failure> {
    while let Some(text) = jobs.recv().await {
        let job: Job = serde_json::from_str(&text)?;
        let db = engine.handle().recorded(); // a session of its own for each job
        job.token.iter().for_each(|token| db.observe(token));
        let select = sqlx::query_scalar("SELECT item FROM orders WHERE id = $1").bind(job.order);
        let item: String = select.fetch_one(&db).await?;
        for read in db.timings() {
            let (node, reason) = (read.node, read.reason.as_str());
            results.send(format!("the worker reads \"{item}\" from {node} ({reason})")).await?;
        }
    }
    Ok(())
}
