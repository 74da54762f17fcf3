//! What the status says of a pool, in each state that a connection can be in.

use std::time::Duration;

use flautino_lab::{Proxied, until_sessions, wait_until};

#[tokio::test]
async fn in_use_connecting_waiting_idle_and_warm_are_told_apart() {
    let server = Proxied::start("status", |config| {
        config.pool.max_connections = 3;
        config.pool.acquire_timeout = Duration::from_secs(60);
        config.pool.warm_time = Duration::from_secs(60);
    })
    .await;
    until_sessions(server.node(), "status", 1).await;
    let pool = server.pool();
    assert_eq!((pool.size, pool.idle, pool.warm, pool.max), (1, 1, 1, 3), "{pool:?}");
    assert_eq!((pool.in_use, pool.connecting, pool.waiting), (0, 0, 0), "{pool:?}");

    let first = server.db.acquire().await.unwrap();
    let pool = server.pool();
    assert_eq!((pool.size, pool.idle, pool.warm), (1, 0, 0), "{pool:?}");
    assert_eq!((pool.in_use, pool.connecting, pool.waiting), (1, 0, 0), "{pool:?}");

    // Two are being made, and three of five wait for no connection in particular.
    server.proxy.stall();
    let mut askers: Vec<_> = (0..5).map(|_| tokio::spawn(server.db.acquire())).collect();
    wait_until("two are being made", async || server.pool().connecting == 2).await;
    let pool = server.pool();
    assert_eq!((pool.idle, pool.max), (0, 3), "{pool:?}");
    assert!(pool.waiting >= 3, "{pool:?}");

    // The future that was dropped waits no more.
    let dropped = askers.pop().unwrap();
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    server.proxy.heal().unwrap();
    wait_until("two more are lent", async || server.pool().in_use == 3).await;
    let pool = server.pool();
    assert_eq!((pool.size, pool.idle, pool.connecting), (3, 0, 0), "{pool:?}");
    assert_eq!(pool.waiting, 2, "{pool:?}");

    // Each goes back as soon as its asker looks at it.
    drop(first);
    for asker in askers {
        drop(asker.await.unwrap().unwrap());
    }
    wait_until("all rest", async || server.pool().idle == 3).await;
    let pool = server.pool();
    assert_eq!((pool.size, pool.warm, pool.in_use, pool.waiting), (3, 3, 0, 0), "{pool:?}");
    server.engine.close().await;
    assert!(server.engine.status().nodes[0].pool.is_none());
}

#[tokio::test]
async fn the_fields_are_in_the_json_too() {
    let server = Proxied::start("json", |config| config.pool.max_connections = 3).await;
    let _lease = server.db.acquire().await.unwrap();
    let status = serde_json::to_value(server.engine.status()).unwrap();
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
    server.engine.close_within(Duration::ZERO).await;
}

#[tokio::test]
async fn what_rested_is_idle_and_no_longer_warm() {
    let server = Proxied::start("rested", |config| {
        config.pool.warm_time = Duration::from_millis(100);
    })
    .await;
    wait_until("it rests and is warm no more", async || {
        let pool = server.pool();
        (pool.size, pool.idle, pool.warm) == (1, 1, 0)
    })
    .await;
    assert_eq!(server.pool().in_use, 0);
    server.engine.close().await;
}
