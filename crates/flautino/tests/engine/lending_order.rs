//! Who asked first is served first, by the connection that was used last.

use std::sync::{Arc, Mutex};

use flautino::{Handle, Lease};
use flautino_lab::{Lab, pid, wait_until};
use futures_util::future::try_join_all;

fn leased_by(leases: &mut [Lease]) -> impl Future<Output = Vec<i32>> {
    let ask = async |lease: &mut Lease| -> Result<i32, sqlx::Error> {
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(lease).await
    };
    let pids = try_join_all(leases.iter_mut().map(ask));
    async move { pids.await.unwrap() }
}

async fn three(db: &Handle) -> Vec<Lease> {
    try_join_all((0..3).map(|_| db.acquire())).await.unwrap()
}

#[tokio::test]
async fn the_connection_that_was_given_back_last_is_lent_first() {
    let lab = Lab::named("stack").behind_proxy().connections(3).always_warm().start().await;
    let mut leases = three(&lab.db).await;
    let pids = leased_by(&mut leases).await;
    for (lease, number) in leases.into_iter().zip(1..) {
        drop(lease);
        // It is washed on its way back.
        wait_until("it rests", async || lab.pool().idle == number).await;
    }
    for _ in 0..5 {
        assert_eq!(pid(&lab.db).await, pids[2]);
    }
    let _held = lab.db.acquire().await.unwrap();
    assert_eq!(pid(&lab.db).await, pids[1]);
    lab.engine.close().await;
}

#[tokio::test]
async fn who_asked_first_is_served_first_and_who_comes_later_does_not_overtake() {
    let lab = Lab::named("queue").behind_proxy().one_connection().start().await;
    let held = lab.db.acquire().await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut askers = Vec::new();
    for number in 0..20 {
        let (db, served) = (lab.db.clone(), Arc::clone(&served));
        askers.push(tokio::spawn(async move {
            let lease = db.acquire().await.unwrap();
            served.lock().unwrap().push(number);
            drop(lease);
        }));
        // There is one thread, so that it waits now.
        tokio::task::yield_now().await;
    }
    drop(held);
    // The connection is free, and twenty were here before.
    let last = lab.db.acquire().await.unwrap();
    assert_eq!(*served.lock().unwrap(), (0..20).collect::<Vec<_>>());
    drop(last);
    for asker in askers {
        asker.await.unwrap();
    }
    lab.engine.close().await;
}
