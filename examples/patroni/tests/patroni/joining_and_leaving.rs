//! Members of a real cluster that join, leave, and lead in turn, while an app reads and writes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use flautino::Engine;
use flautino_cluster::patroni::{Member, Patroni};
use flautino_lab::{number, program, run, until_served_by};
use patroni::Members;

use crate::common::{discovering, others};

/// Far longer than Patroni's `ttl`.
const PATIENCE: Duration = Duration::from_secs(120);

fn name(member: &Member) -> String {
    member.addr().to_string()
}

/// Reads and writes until it is told to stop. Each session sees what it wrote.
async fn app(engine: &Engine, stop: &AtomicBool, rows: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) {
        let db = engine.handle();
        run(&db, "INSERT INTO t VALUES (1)").await.unwrap();
        let written = rows.fetch_add(1, Ordering::Relaxed) + 1;
        let count = number(&db, "SELECT count(*) FROM t").await.unwrap();
        assert_eq!(count, i64::try_from(written).unwrap());
        number(&engine.handle(), "SELECT count(*) FROM t").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A member joins, another leads, and one leaves for good. Nothing but Patroni tells the engine.
async fn changes(patroni: &mut Patroni, engine: &Engine) {
    let names = |which: &[usize], patroni: &Patroni| {
        let mut names: Vec<_> = which.iter().map(|n| name(&patroni.members()[*n])).collect();
        names.sort();
        names
    };
    assert_eq!(others(engine), names(&[1, 2], patroni));
    let fourth = name(patroni.add_member().await.unwrap());
    until_served_by(engine, &[&fourth]).await;
    assert_eq!(others(engine), names(&[1, 2, 3], patroni));

    patroni.switchover(Some("p2")).await.unwrap();
    patroni.until_streaming().await.unwrap();
    until_served_by(engine, &[&fourth, "main"]).await;
    assert_eq!(engine.status().primary, Some(name(&patroni.members()[1])));

    // Patroni lists it for another `ttl`.
    patroni.members()[2].stop().await;
    let left = async {
        while others(engine) != names(&[1, 3], patroni) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, left).await;
    in_time.unwrap_or_else(|_| panic!("the one that was stopped stays: {:#?}", engine.status()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_join_lead_and_leave_are_followed_and_no_request_fails() {
    if program("patroni").is_none() || program("etcd").is_none() {
        return;
    }
    let mut patroni = Patroni::builder().start().await.unwrap();
    let first = &patroni.members()[0];
    first.execute("CREATE TABLE t (a int)").await.unwrap();
    let apis: Vec<_> = patroni.members().iter().map(Member::api).collect();
    let members = Members::new(&apis.join(",")).unwrap();
    let engine = discovering(&first.url(), first.addr(), members).await;
    let found: Vec<_> = patroni.members()[1..].iter().map(name).collect();
    until_served_by(&engine, &found.iter().map(String::as_str).collect::<Vec<_>>()).await;

    let (stop, rows) = (AtomicBool::new(false), AtomicUsize::new(0));
    let changing = async {
        changes(&mut patroni, &engine).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(app(&engine, &stop, &rows), changing);
    let rows = i64::try_from(rows.into_inner()).unwrap();
    println!("{rows} writes and {} reads, none of which failed", 2 * rows);
    assert_eq!(number(&engine.handle().primary(), "SELECT count(*) FROM t").await.unwrap(), rows);
    engine.close().await;
}
