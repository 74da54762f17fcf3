//! Measures how many of the reads that bring a token are served by replicas, by how long after the
//! write they come, on a primary and two replicas that it starts itself:
//!
//! ```sh
//! cargo run --release -p flautino-lab --example freshness
//! ```
//!
//! `TOKEN_WAIT=20ms` has reads wait, `POSITION_RATE=0` has nobody asked.
#![allow(clippy::print_stdout, reason = "what it prints is its answer")]

use std::error::Error;
use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig};
use flautino_lab::{Lab, ask, catch_up};
use futures_util::future::try_join_all;

/// How many writes, each with a read, make a figure.
const WRITES: u32 = 320;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut toml = String::from("[routing]\n");
    for (variable, key) in [("TOKEN_WAIT", "token_wait"), ("POSITION_RATE", "position_rate")] {
        if let Ok(value) = std::env::var(variable) {
            let value = value.parse::<u32>().map_or(format!("{value:?}"), |rate| rate.to_string());
            toml.push_str(&format!("{key} = {value}\n"));
        }
    }
    let routing = EngineConfig::from_toml(&toml)?.routing;
    let change = |config: &mut EngineConfig| config.routing = routing;
    let lab = Lab::named("fresh")
        .replicas(2)
        .table("t (a int)")
        // Reads remove old versions of rows, which writes WAL that is not flushed at once.
        .sql("CREATE TABLE counters (id int PRIMARY KEY, n int) WITH (fillfactor = 50)")
        .sql("INSERT INTO counters SELECT generate_series(1, 10000), 0")
        .config(change)
        .start()
        .await;
    println!("replay takes {}", replay_times(&lab).await);
    println!("clients  after  by replicas  (first / second)  questions a request  requests/s");
    for clients in [1, 2, 8, 64] {
        for pause in [0, 10, 50] {
            measure(&lab.engine, clients, Duration::from_millis(pause)).await?;
        }
    }
    lab.engine.close().await;
    Ok(())
}

/// How long replay takes, from the end of a write until a replica shows it.
async fn replay_times(lab: &Lab) -> String {
    let mut times = Vec::new();
    for value in 0..40 {
        let sql = format!("INSERT INTO t VALUES (-1 - {value})");
        lab.primary().execute(&sql).await.unwrap_or_default();
        let shows = format!("SELECT count(*) FROM t WHERE a = -1 - {value}");
        let started = Instant::now();
        while ask::<i64>(lab.cluster.replica(0), &shows).await == 0 {}
        times.push(started.elapsed());
    }
    catch_up(&lab.cluster).await;
    times.sort();
    format!("{:.1?} at most, {:.1?} mostly (with a new connection)", times[39], times[20])
}

/// Writes, and reads after a pause with the token of the write.
async fn measure(engine: &Engine, clients: u32, pause: Duration) -> Result<(), sqlx::Error> {
    let (questions, started) = (asked(engine), Instant::now());
    let client = async |number: u32| {
        let mut by_replicas = [0, 0];
        for round in 0..WRITES / clients {
            let id = i64::from(1 + (round * clients + number) * 7 % 10_000);
            let db = engine.handle();
            let write = "UPDATE counters SET n = n + 1 WHERE id = $1";
            sqlx::query(write).bind(id).execute(&db).await?;
            let token = db.token().await.ok_or(sqlx::Error::WorkerCrashed)?;
            tokio::time::sleep(pause).await;
            let db = engine.handle();
            db.resume(&token);
            sqlx::query("SELECT n FROM counters WHERE id = $1").bind(id).execute(&db).await?;
            for (count, name) in by_replicas.iter_mut().zip(["read_replica_1", "read_replica_2"]) {
                *count += u32::from(db.served_by().is_some_and(|node| &*node == name));
            }
        }
        Ok::<_, sqlx::Error>(by_replicas)
    };
    let counts = try_join_all((0..clients).map(client)).await?;
    let by_replica = |number: usize| counts.iter().map(|counts| counts[number]).sum::<u32>();
    let reads = f64::from(WRITES / clients * clients);
    let share = |number: usize| f64::from(by_replica(number)) / reads;
    let questions = u32::try_from(asked(engine) - questions).map_or(f64::NAN, f64::from);
    println!(
        "{clients:7}  {pause:>5.0?}  {:>11.3}  ({:.3} / {:.3})   {:>19.3}  {:>10.0}",
        share(0) + share(1),
        share(0),
        share(1),
        questions / (2.0 * reads),
        2.0 * reads / started.elapsed().as_secs_f64(),
    );
    Ok(())
}

/// How many times a position was asked for, for tokens and for reads.
fn asked(engine: &Engine) -> u64 {
    let nodes = engine.status().nodes;
    nodes.iter().map(|node| node.token_probes + node.position_probes).sum()
}
