//! Pools whose size is changed while they are in use, and callers who wait for as long as they say.

use std::time::Duration;

use flautino::{AcquireStep, Engine, Error};
use flautino_lab::{Lab, run, sessions_of, wait_until};
use futures_util::future::join_all;
use sqlx::postgres::PgPoolOptions;

#[tokio::test]
async fn a_larger_pool_serves_those_who_wait_at_once() {
    let lab = Lab::named("resize").connections(1).config(|config| {
        config.pool.acquire_timeout = Duration::from_secs(600);
    });
    let lab = lab.start().await;
    let held = lab.db.acquire().await.unwrap();
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(lab.db.acquire())).collect();
    wait_until("they wait", async || lab.pool().waiting == 3).await;
    lab.engine.resize(4).await.unwrap();
    let leases = join_all(waiting).await;
    assert!(leases.iter().all(|lease| lease.as_ref().unwrap().is_ok()));
    assert_eq!((lab.pool().max, lab.pool().in_use), (4, 4));
    drop((held, leases));
    lab.engine.close().await;
}

#[tokio::test]
async fn a_smaller_one_closes_what_is_idle_now_and_what_is_in_use_when_it_comes_back() {
    let lab = Lab::named("resize").connections(6).always_warm().start().await;
    let leases = join_all((0..6).map(|_| lab.db.acquire())).await;
    let mut leases: Vec<_> = leases.into_iter().map(Result::unwrap).collect();
    leases.truncate(4);
    wait_until("two are idle", async || lab.pool().idle == 2).await;
    lab.engine.resize(2).await.unwrap();
    wait_until("they are closed", async || sessions_of(lab.primary(), "resize").await <= 5).await;
    assert_eq!(lab.pool().in_use, 4, "nothing in use is ended");
    for lease in &mut leases {
        sqlx::query("SELECT 1").execute(lease).await.unwrap();
    }
    drop(leases);
    wait_until("two are left at the most", async || {
        let pool = lab.pool();
        pool.size <= 2 && pool.in_use == 0
    })
    .await;
    let two = join_all((0..2).map(|_| lab.db.acquire())).await;
    let late = lab.db.with_acquire_timeout(Duration::ZERO);
    let error = late.acquire().await.map(drop).unwrap_err();
    let Some(Error::AcquireTimeout { step: AcquireStep::WaitingForSlot, max: 2, .. }) =
        Error::of(&error)
    else {
        panic!("{error}")
    };
    drop(two);
    lab.engine.close().await;
}

#[tokio::test]
async fn it_holds_for_nodes_that_join_and_until_the_engine_is_closed() {
    let lab = Lab::named("resize").replicas(1).connections(3).start().await;
    let replica = lab.config.extra_nodes.clone();
    lab.engine.set_nodes([].into()).await.unwrap();
    lab.engine.resize(7).await.unwrap();
    lab.engine.set_nodes(replica).await.unwrap();
    let max = || -> Vec<_> {
        lab.engine.status().nodes.iter().map(|node| node.pool.unwrap().max).collect()
    };
    assert_eq!(max(), [7, 7]);
    lab.engine.close().await;
    lab.engine.open().await.unwrap();
    assert_eq!(max(), [3, 3]);
    lab.engine.close().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_reason() {
    let lab = Lab::named("resize").config(|config| config.pool.min_connections = 2);
    let lab = lab.start_closed().await;
    let refused = async |engine: &Engine, max| engine.resize(max).await.unwrap_err().to_string();
    assert!(refused(&lab.engine, 3).await.contains("not open"));
    lab.engine.open().await.unwrap();
    assert!(refused(&lab.engine, 0).await.contains("pool.max_connections"));
    assert!(refused(&lab.engine, 1).await.contains("min_connections"));
    assert_eq!(lab.pool().max, 10);
    let options = PgPoolOptions::new().max_connections(2);
    let pool = options.connect_with(lab.primary().connect_options()).await.unwrap();
    assert!(refused(&Engine::from_pool(pool), 3).await.contains("app's own pool"));
    lab.engine.close().await;
}

#[tokio::test]
async fn a_handle_waits_for_as_long_as_it_says() {
    let lab = Lab::named("resize").one_connection().start().await;
    let held = lab.db.acquire().await.unwrap();
    let patient = lab.db.with_acquire_timeout(Duration::from_secs(600));
    let waiting = tokio::spawn(async move { run(&patient, "SELECT 1").await });
    wait_until("it waits", async || lab.pool().waiting == 1).await;
    let impatient = lab.db.with_acquire_timeout(Duration::from_millis(50));
    for _ in 0..3 {
        let error = run(&impatient, "SELECT 1").await.unwrap_err();
        assert!(matches!(Error::of(&error), Some(Error::AcquireTimeout { .. })), "{error}");
    }
    assert_eq!(lab.pool().waiting, 1);
    drop(held);
    waiting.await.unwrap().unwrap();
    lab.engine.close().await;
}
