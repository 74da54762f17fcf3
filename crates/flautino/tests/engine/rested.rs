//! A connection that rested is looked at before it is lent, briefly.

use std::time::{Duration, Instant};

use flautino::{EngineConfig, PoolConfig};
use flautino_cluster::Proxy;
use flautino_lab::{Proxied, ask, has_session, pid, until_sessions, wait_until};
use futures_util::future::try_join_all;

const ACQUIRE: Duration = Duration::from_secs(30);

fn rest_soon(config: &mut EngineConfig) {
    config.pool.max_connections = 10;
    config.pool.warm_time = Duration::from_millis(50);
    config.pool.acquire_timeout = ACQUIRE;
    config.pool.ping_timeout = Duration::from_millis(300);
}

#[test]
fn a_ping_takes_half_a_second_at_most_unless_the_configuration_says_otherwise() {
    assert_eq!(PoolConfig::default().ping_timeout, Duration::from_millis(500));
    let text = "url = 'postgres://u@localhost/d'\n[pool]\nping_timeout = '2s'";
    let config = EngineConfig::from_toml(text).unwrap();
    assert_eq!(config.pool.ping_timeout, Duration::from_secs(2));
}

async fn until_rested(server: &Proxied, count: usize) {
    wait_until("all have rested", async || {
        let pool = server.pool();
        (pool.idle, pool.warm) == (count, 0)
    })
    .await;
}

#[tokio::test]
async fn one_that_answers_serves_after_one_more_round_trip_and_is_warm_again() {
    let server = Proxied::start("answers", |config| {
        rest_soon(config);
        config.pool.max_connections = 1;
        config.pool.warm_time = Duration::from_secs(2);
    })
    .await;
    let before = pid(&server.db).await;
    assert_eq!(pid(&server.db).await, before);
    until_rested(&server, 1).await;
    server.proxy.reset_counters();
    assert_eq!(pid(&server.db).await, before);
    assert_eq!(server.proxy.round_trips(), 2);
    assert_eq!(server.proxy.accepted(), 0);
    server.engine.close().await;
}

#[tokio::test]
async fn one_that_the_server_ended_meanwhile_costs_no_statement_not_even_a_write() {
    let server = Proxied::start("ended", rest_soon).await;
    server.node().execute("CREATE TABLE t (a int)").await.unwrap();
    for round in 1..=3_i64 {
        drop(try_join_all((0..5).map(|_| server.db.acquire())).await.unwrap());
        wait_until("all have rested", async || server.pool().warm == 0).await;
        let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
                   WHERE application_name = 'ended'";
        server.node().execute(end).await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&server.db).await.unwrap();
        assert_eq!(ask::<i64>(server.node(), "SELECT count(*) FROM t").await, round);
    }
    server.engine.close().await;
}

/// Ten connections that take a detour and have rested; then the detour carries nothing any more,
/// and new connections do not take it.
async fn forgotten(name: &str) -> (Proxied, Proxy) {
    let server = Proxied::start(name, rest_soon).await;
    let detour = Proxy::start(server.node().addr()).await.unwrap();
    server.proxy.set_target(detour.addr());
    // The one that `open` made goes the direct way.
    server.proxy.reset().await;
    let leases = try_join_all((0..10).map(async |_| {
        let mut lease = server.db.acquire().await?;
        while sqlx::query("SELECT 1").execute(&mut lease).await.is_err() {
            lease = server.db.acquire().await?;
        }
        Ok::<_, sqlx::Error>(lease)
    }));
    let leases = leases.await.unwrap();
    until_sessions(server.node(), name, 10).await;
    // What ended a statement on the lost one may have come over one of its own.
    wait_until("no others go that way", async || detour.connections() == 10).await;
    drop(leases);
    until_rested(&server, 10).await;
    detour.stall();
    detour.reset_counters();
    server.proxy.set_target(server.node().addr());
    (server, detour)
}

#[tokio::test]
async fn ten_that_a_firewall_forgot_cost_the_next_statement_a_ping_or_two() {
    let (server, detour) = forgotten("firewall").await;
    let started = Instant::now();
    let next = pid(&server.db).await;
    let took = started.elapsed();
    assert!(has_session(server.node(), next).await);
    assert!(took < ACQUIRE / 2, "{took:?}");
    // One for each connection that was spoken to.
    assert!((1..=2).contains(&detour.round_trips()), "{} pings", detour.round_trips());
    for _ in 0..5 {
        pid(&server.db).await;
    }
    assert!(detour.round_trips() <= 2, "{} pings", detour.round_trips());
    server.engine.close_within(Duration::ZERO).await;
}

#[tokio::test]
async fn nor_do_ten_statements_at_once_wait_for_all_of_them() {
    let (server, detour) = forgotten("at_once").await;
    let started = Instant::now();
    let pids = (0..10).map(async |_| sqlx::query("SELECT 1").execute(&server.db).await);
    try_join_all(pids).await.unwrap();
    let took = started.elapsed();
    assert!(took < ACQUIRE / 2, "{took:?}");
    // Each of the ten may have met one before any of them knew.
    assert!(detour.round_trips() <= 20, "{} pings", detour.round_trips());
    assert!(server.pool().size <= 10);
    server.engine.close_within(Duration::ZERO).await;
}
