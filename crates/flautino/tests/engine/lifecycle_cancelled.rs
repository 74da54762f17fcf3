//! Opening and closing, cut short at every point.

use std::time::Duration;

use flautino::Engine;
use flautino_cluster::Proxy;
use flautino_lab::{Lab, cluster, config, polled_at_most, sessions_of, wait_until};

use crate::lifecycle::{is_closed, select_1};

#[tokio::test]
async fn a_close_cancelled_mid_way_can_be_finished_and_opened_after() {
    let Lab { cluster, engine, .. } = Lab::named("half_closed").start().await;
    for finish_with_open in [false, true] {
        let lease = engine.handle().acquire().await.unwrap();
        let half = tokio::time::timeout(Duration::from_millis(50), engine.close()).await;
        assert!(half.is_err());
        assert!(is_closed(select_1(&engine).await));
        drop(lease);
        if !finish_with_open {
            assert!(engine.close().await.was_open);
            wait_until("no session is left", async || {
                sessions_of(cluster.primary(), "half_closed").await == 0
            })
            .await;
        }
        assert!(!engine.open().await.unwrap().already_open);
        assert_eq!(select_1(&engine).await.unwrap(), 1);
        wait_until("one session is left", async || {
            sessions_of(cluster.primary(), "half_closed").await == 1
        })
        .await;
    }
    engine.close().await;
}

#[tokio::test]
async fn a_close_cancelled_at_any_point_leaves_an_engine_that_closes_and_opens() {
    let Lab { cluster, engine, .. } = Lab::named("cut_close").start_closed().await;
    for polls in 1..12 {
        engine.open().await.unwrap();
        assert_eq!(select_1(&engine).await.unwrap(), 1);
        let _ = polled_at_most(polls, engine.close()).await;
        engine.close().await;
        assert!(is_closed(select_1(&engine).await));
    }
    wait_until("no session is left", async || {
        sessions_of(cluster.primary(), "cut_close").await == 0
    })
    .await;
}

#[tokio::test]
async fn an_open_cancelled_at_any_point_leaves_nothing_and_can_be_repeated() {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = config(&cluster, "cut_open");
    config.main.url = Some(proxy.url());
    let engine = Engine::new(config).unwrap();
    let mut cancelled = 0;
    for polls in 1..60 {
        if polled_at_most(polls, engine.open()).await.is_some() {
            break;
        }
        cancelled += 1;
        assert!(!engine.status().open);
    }
    assert!(cancelled > 2, "{cancelled}");
    engine.close().await;
    wait_until("no session is left", async || {
        sessions_of(cluster.primary(), "cut_open").await == 0
    })
    .await;
    assert!(!engine.open().await.unwrap().already_open);
    assert_eq!(select_1(&engine).await.unwrap(), 1);
    engine.close().await;
}
