//! No more connections are made at the same time than `pool.connect_concurrency` says.

use std::time::Duration;

use flautino::{EngineConfig, PoolConfig};
use flautino_lab::{Lab, until_sessions, wait_until};

/// How long what must not happen is waited for.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn it_is_four_unless_the_configuration_says_otherwise() {
    assert_eq!(PoolConfig::default().connect_concurrency, 4);
    let text = "url = 'postgres://u@localhost/d'\n[pool]\nconnect_concurrency = 2";
    assert_eq!(EngineConfig::from_toml(text).unwrap().pool.connect_concurrency, 2);
}

/// A pool of twenty with one connection made, twenty who want one each, and a network that stands
/// still; then it goes on.
async fn check(name: &str, concurrency: Option<u32>, expected: u64) {
    let lab = Lab::named(name)
        .behind_proxy()
        .connections(20)
        .always_warm()
        .config(|config| {
            if let Some(concurrency) = concurrency {
                config.pool.connect_concurrency = concurrency;
            }
        })
        .start()
        .await;
    until_sessions(lab.primary(), name, 1).await;
    let first = lab.db.acquire().await.unwrap();
    lab.proxy().reset_counters();
    lab.proxy().stall();
    let askers: Vec<_> = (0..19).map(|_| tokio::spawn(lab.db.acquire())).collect();
    wait_until("as many are being made as may be", async || lab.proxy().accepted() == expected)
        .await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(lab.proxy().accepted(), expected);
    assert_eq!(u64::from(lab.pool().connecting), expected);

    lab.proxy().heal().unwrap();
    let mut leases = Vec::new();
    for asker in askers {
        leases.push(asker.await.unwrap().unwrap());
        assert!(u64::from(lab.pool().connecting) <= expected);
    }
    assert_eq!(lab.proxy().accepted(), 19);
    until_sessions(lab.primary(), name, 20).await;
    drop((first, leases));
    lab.engine.close().await;
}

#[tokio::test]
async fn at_most_four_connections_are_made_at_once_and_in_the_end_all() {
    check("four", None, 4).await;
}

#[tokio::test]
async fn one_after_the_other_where_that_is_wanted() {
    check("single", Some(1), 1).await;
}

#[tokio::test]
async fn all_at_once_where_there_is_room_for_more_than_are_wanted() {
    check("wide", Some(100), 19).await;
}

#[tokio::test]
async fn those_whose_askers_went_away_count_too() {
    let lab = Lab::named("gone").behind_proxy().connections(20).always_warm().start().await;
    let first = lab.db.acquire().await.unwrap();
    lab.proxy().reset_counters();
    lab.proxy().stall();
    for _ in 0..5 {
        let askers: Vec<_> = (0..8).map(|_| tokio::spawn(lab.db.acquire())).collect();
        wait_until("four are being made", async || lab.proxy().accepted() == 4).await;
        for asker in askers {
            asker.abort();
            let _ = asker.await;
        }
    }
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(lab.proxy().accepted(), 4);
    lab.proxy().heal().unwrap();
    wait_until("the four are there", async || lab.pool().idle == 4).await;
    drop(first);
    lab.engine.close().await;
}
