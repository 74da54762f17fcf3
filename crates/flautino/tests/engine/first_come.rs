//! Who waits for a connection takes whichever comes first: one that is given back, or a new one.

use std::time::Duration;

use flautino::{Handle, Lease};
use flautino_cluster::Proxy;
use flautino_lab::{Lab, until_sessions, wait_until};

const PATIENT: Duration = Duration::from_secs(20);

/// A pool of two whose first connection is made and lent; new ones take a detour that stands still.
async fn one_lent(name: &str) -> (Lab, Proxy, Lease) {
    let lab = Lab::named(name)
        .behind_proxy()
        .always_warm()
        .config(|config| {
            config.pool.max_connections = 2;
            config.pool.acquire_timeout = PATIENT;
        })
        .start()
        .await;
    // The one that `open` looked at the server with is gone.
    until_sessions(lab.primary(), name, 1).await;
    let first = lab.db.acquire().await.unwrap();
    let detour = Proxy::start(lab.primary().addr()).await.unwrap();
    detour.stall();
    lab.proxy().set_target(detour.addr());
    lab.proxy().reset_counters();
    (lab, detour, first)
}

async fn own_pid(lease: &mut Lease) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(lease).await.unwrap()
}

async fn acquire(db: &Handle) -> Lease {
    let acquired = tokio::time::timeout(PATIENT / 2, db.acquire()).await;
    acquired.expect("long before the pool gives up").unwrap()
}

#[tokio::test]
async fn an_asker_takes_what_is_given_back_while_another_connection_is_being_made() {
    let (lab, detour, mut first) = one_lent("whichever").await;
    let served_by = own_pid(&mut first).await;
    let db = lab.db.clone();
    let asker = tokio::spawn(async move { acquire(&db).await });
    wait_until("a second is being made", async || detour.accepted() == 1).await;
    drop(first);
    let mut second = asker.await.unwrap();
    assert_eq!(own_pid(&mut second).await, served_by);

    // What hung is kept for the next.
    detour.heal().unwrap();
    wait_until("it has arrived", async || lab.pool().idle == 1).await;
    let mut third = acquire(&lab.db).await;
    assert_ne!(own_pid(&mut third).await, served_by);
    assert_eq!(lab.proxy().accepted(), 1);
    drop((second, third));
    lab.engine.close().await;
}

#[tokio::test]
async fn an_asker_takes_a_new_connection_while_none_is_given_back() {
    let (lab, detour, mut first) = one_lent("new").await;
    let db = lab.db.clone();
    let asker = tokio::spawn(async move { acquire(&db).await });
    wait_until("a second is being made", async || detour.accepted() == 1).await;
    detour.heal().unwrap();
    let mut second = asker.await.unwrap();
    assert_ne!(own_pid(&mut second).await, own_pid(&mut first).await);
    assert_eq!(lab.proxy().accepted(), 1);
    drop((first, second));
    lab.engine.close().await;
}

#[tokio::test]
async fn a_connection_that_an_impatient_asker_began_is_there_for_the_next() {
    let (lab, detour, first) = one_lent("impatient").await;
    for _ in 0..5 {
        let asker = tokio::spawn(lab.db.acquire());
        wait_until("a connection is being made", async || detour.accepted() > 0).await;
        asker.abort();
        assert!(asker.await.unwrap_err().is_cancelled());
    }
    detour.heal().unwrap();
    let second = acquire(&lab.db).await;
    assert_eq!(lab.proxy().accepted(), 1);
    drop((first, second));
    lab.engine.close().await;
}

#[tokio::test]
async fn it_is_kept_where_nobody_asks_any_more() {
    let (lab, detour, first) = one_lent("kept").await;
    let asker = tokio::spawn(lab.db.acquire());
    wait_until("a connection is being made", async || detour.accepted() == 1).await;
    asker.abort();
    assert!(asker.await.unwrap_err().is_cancelled());
    detour.heal().unwrap();
    wait_until("it has arrived", async || lab.pool().idle == 1).await;
    until_sessions(lab.primary(), "kept", 2).await;
    assert_eq!(lab.engine.status().nodes[0].in_flight, 1);
    drop(first);
    lab.engine.close().await;
}
