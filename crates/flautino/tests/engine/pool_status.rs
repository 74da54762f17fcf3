//! What the status says of a pool, in each state that a connection can be in.

use std::time::Duration;

use flautino_lab::{Lab, until_sessions, wait_until};

#[tokio::test]
async fn in_use_connecting_waiting_idle_and_warm_are_told_apart() {
    let lab = Lab::named("status").behind_proxy().connections(3).always_warm().start().await;
    until_sessions(lab.primary(), "status", 1).await;
    let pool = lab.pool();
    assert_eq!((pool.size, pool.idle, pool.warm, pool.max), (1, 1, 1, 3), "{pool:?}");
    assert_eq!((pool.in_use, pool.connecting, pool.waiting), (0, 0, 0), "{pool:?}");

    let first = lab.db.acquire().await.unwrap();
    let pool = lab.pool();
    assert_eq!((pool.size, pool.idle, pool.warm), (1, 0, 0), "{pool:?}");
    assert_eq!((pool.in_use, pool.connecting, pool.waiting), (1, 0, 0), "{pool:?}");

    // Two are being made, and three of five wait for no connection in particular.
    lab.proxy().stall();
    let mut askers: Vec<_> = (0..5).map(|_| tokio::spawn(lab.db.acquire())).collect();
    wait_until("two are being made", async || lab.pool().connecting == 2).await;
    let pool = lab.pool();
    assert_eq!((pool.idle, pool.max), (0, 3), "{pool:?}");
    assert!(pool.waiting >= 3, "{pool:?}");

    // The future that was dropped waits no more.
    let dropped = askers.pop().unwrap();
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    lab.proxy().heal().unwrap();
    wait_until("two more are lent", async || lab.pool().in_use == 3).await;
    let pool = lab.pool();
    assert_eq!((pool.size, pool.idle, pool.connecting), (3, 0, 0), "{pool:?}");
    assert_eq!(pool.waiting, 2, "{pool:?}");

    // Each goes back as soon as its asker looks at it.
    drop(first);
    for asker in askers {
        drop(asker.await.unwrap().unwrap());
    }
    wait_until("all rest", async || lab.pool().idle == 3).await;
    let pool = lab.pool();
    assert_eq!((pool.size, pool.warm, pool.in_use, pool.waiting), (3, 3, 0, 0), "{pool:?}");
    lab.engine.close().await;
    assert!(lab.engine.status().nodes[0].pool.is_none());
}

#[tokio::test]
async fn the_fields_are_in_the_json_too() {
    let lab = Lab::named("json").behind_proxy().connections(3).start().await;
    let _lease = lab.db.acquire().await.unwrap();
    let status = serde_json::to_value(lab.engine.status()).unwrap();
    let pool = status["nodes"][0]["pool"].as_object().unwrap();
    for (field, value) in [
        ("size", 1),
        ("idle", 0),
        ("warm", 0),
        ("max", 3),
        ("in_use", 1),
        ("connecting", 0),
        ("waiting", 0),
    ] {
        assert_eq!(pool[field].as_u64(), Some(value), "{field}: {pool:?}");
    }
    lab.engine.close_within(Duration::ZERO).await;
}

#[tokio::test]
async fn what_rested_is_idle_and_no_longer_warm() {
    let lab = Lab::named("rested")
        .behind_proxy()
        .config(|config| config.pool.warm_time = Duration::from_millis(100))
        .start()
        .await;
    wait_until("it rests and is warm no more", async || {
        let pool = lab.pool();
        (pool.size, pool.idle, pool.warm) == (1, 1, 0)
    })
    .await;
    assert_eq!(lab.pool().in_use, 0);
    lab.engine.close().await;
}
