//! The example on real clusters: its app and its workers together, and the program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use apalis_postgres::PostgresStorage;
use flautino_lab::{App, Lab, LabBuilder, Served, ask, wait_until, wait_until_or_tell};
use queue::{TABLE, app, work};
use reqwest::{Client, StatusCode};
use tokio::task::JoinHandle;

const PACKED: &str = "SELECT count(*) FROM orders WHERE packed_at IS NOT NULL";

fn lab() -> LabBuilder<'static> {
    Lab::named("queue").sql(TABLE).patient_probes()
}

/// The app, and workers of these names.
async fn start(lab: &Lab, names: &[&'static str]) -> (App, Vec<JoinHandle<()>>) {
    lab.engine.migrate(&PostgresStorage::migrations()).await.unwrap();
    let app = App::start(app(&lab.engine), lab.engine.clone()).await;
    let workers = names.iter().map(|name| tokio::spawn(work(lab.engine.clone(), name)));
    (app, workers.collect())
}

async fn order(url: &str, item: &str) -> StatusCode {
    Client::new().post(format!("{url}/orders/{item}")).send().await.unwrap().status()
}

#[tokio::test]
async fn two_workers_do_the_job_of_each_order_and_end_with_the_engine() {
    let lab = lab().start().await;
    let (app, workers) = start(&lab, &["first", "second"]).await;
    for _ in 0..40 {
        assert_eq!(order(&app.url, "flute").await, 200);
    }
    let done = "SELECT count(*) FROM apalis.jobs WHERE status = 'Done'";
    let all_done = async || ask::<i64>(lab.primary(), done).await == 40;
    wait_until("all jobs are done", all_done).await;
    assert_eq!(ask::<i64>(lab.primary(), PACKED).await, 40);
    app.stop().await;
    for worker in workers {
        worker.await.unwrap();
    }
}

#[tokio::test]
async fn an_order_that_is_not_committed_leaves_no_job() {
    let lab = lab().start().await;
    let (app, _) = start(&lab, &[]).await;
    // Found when the transaction commits, after the job was pushed.
    let unique = "ALTER TABLE orders ADD UNIQUE (item) DEFERRABLE INITIALLY DEFERRED";
    lab.primary().execute(unique).await.unwrap();
    assert_eq!(order(&app.url, "flute").await, 200);
    assert_eq!(order(&app.url, "flute").await, 500);
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM apalis.jobs").await, 1);
    app.stop().await;
}

#[tokio::test]
async fn after_a_failover_the_worker_goes_on_at_the_new_primary() {
    let lab = lab().replicas(1).start().await;
    let (app, workers) = start(&lab, &["packer"]).await;
    let (old, new) = (lab.cluster.primary(), lab.cluster.replica(0));
    assert_eq!(order(&app.url, "flute").await, 200);
    wait_until("the first is packed", async || ask::<i64>(old, PACKED).await == 1).await;
    new.catch_up_with(old).await.unwrap();
    old.kill().await.unwrap();
    new.promote().await.unwrap();
    let taken = async || order(&app.url, "oboe").await == 200;
    wait_until("the app takes orders again", taken).await;
    let second = async || ask::<i64>(new, PACKED).await > 1;
    wait_until_or_tell("the second is packed", second, || format!("{:#?}", lab.engine.status()))
        .await;
    app.stop().await;
    for worker in workers {
        worker.await.unwrap();
    }
}

#[tokio::test]
async fn the_example_packs_an_order_and_stops_in_order() {
    let program = Served::start(env!("CARGO_BIN_EXE_queue"));
    assert_eq!(order(&program.url, "flute").await, 200);
    let orders = format!("{}/orders", program.url);
    wait_until("the order is packed", async || {
        let told = reqwest::get(&orders).await.unwrap().text().await.unwrap();
        told == "1: flute is packed\n"
    })
    .await;
    assert!(program.stop().success());
}
