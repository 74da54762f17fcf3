//! After a failover the old primary comes back and still says that it is a primary: it is reported,
//! never read from, and never written to.

use flautino::{Engine, Health};
use flautino_lab::{App, ask, config, status_of, wait_until};

use crate::common::{MAIN, REPLICAS, Rig, routes};
use crate::load::{Load, Tally, assert_none, failed_over};

/// A row that nobody may see: every read of the load looks for it.
const POISON: &str = "SET synchronous_commit = local; INSERT INTO entries VALUES (-1)";
const COUNT: &str = "SELECT count(*) FROM entries";

/// The status says that it is there, that it is not used, and why.
async fn until_reported(engine: &Engine) {
    wait_until("the status says why it is not used", async || {
        let status = status_of(engine, MAIN);
        status.health == Health::Up && status.reason.is_some()
    })
    .await;
    let reason = status_of(engine, MAIN).reason.unwrap();
    println!("the status says: {reason}");
    assert!(reason.contains("takes writes") && reason.contains(REPLICAS[0]), "{reason}");
    assert_eq!(engine.status().primary.as_deref(), Some(REPLICAS[0]));
}

fn verify(tally: &Tally) {
    tally.assert_no_read_failed();
    let strayed = tally.ops.iter().filter(|op| op.node.as_deref() == Some(MAIN));
    assert_none("on the old primary", strayed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_reported_never_read_from_and_never_written_to() {
    let (rig, before) = failed_over("returns").await;

    let old = rig.cluster.primary();
    let load = Load::of(&rig.engine, &rig.app.url, 1_000_000);
    load.a_while().await;
    let sent = rig.status(MAIN).statements;
    old.start().await.unwrap();
    old.execute(POISON).await.unwrap();
    assert!(!old.is_in_recovery().await.unwrap());
    let stored: i64 = ask(old, COUNT).await;
    until_reported(&rig.engine).await;
    for _ in 0..3 {
        load.a_while().await;
        assert_eq!(rig.engine.status().primary.as_deref(), Some(REPLICAS[0]));
    }
    // Killed once more, and back again.
    old.kill().await.unwrap();
    load.a_while().await;
    old.start().await.unwrap();
    load.a_while().await;
    until_reported(&rig.engine).await;
    load.a_while().await;
    assert_eq!(rig.status(MAIN).statements, sent, "it was sent statements");
    let tally = load.stop().await;
    verify(&tally);
    tally.assert_writes_untouched();
    assert_eq!(ask::<i64>(old, COUNT).await, stored);
    tally.and(before).assert_ledger(rig.cluster.replica(0)).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_starts_now_neither_reads_from_it_nor_writes_to_it_though_it_is_its_main_node()
{
    let rig = Rig::start("returns", 2).await;
    rig.lose_nothing().await;
    let load = Load::start(&rig);
    load.a_while().await;
    rig.fail_over(&load).await;
    load.a_while().await;
    let before = load.stop().await;
    let Rig { cluster, app, .. } = rig;
    app.stop().await;
    let old = cluster.primary();
    old.start().await.unwrap();
    old.execute(POISON).await.unwrap();
    let stored: i64 = ask(old, COUNT).await;

    let engine = Engine::new(config(&cluster, "fresh")).unwrap();
    let app = App::start(routes(&engine), engine.clone()).await;
    wait_until("the app is ready", async || engine.is_ready()).await;
    // At once, before anything is waited for.
    let load = Load::of(&engine, &app.url, 1_000_000);
    load.a_while().await;
    until_reported(&engine).await;
    load.a_while().await;
    let tally = load.stop().await;
    verify(&tally);
    tally.assert_no_write_failed();
    assert_eq!(ask::<i64>(old, COUNT).await, stored);
    tally.and(before).assert_ledger(cluster.replica(0)).await;
    app.stop().await;
}
