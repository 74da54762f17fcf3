//! A connection that rested is looked at before it is lent, briefly.

use std::time::{Duration, Instant};

use flautino::{EngineConfig, PoolConfig};
use flautino_cluster::Proxy;
use flautino_lab::{
    Lab, ask, end_sessions, has_session, pid, running, until_running, until_sessions, wait_until,
};
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

async fn until_rested(lab: &Lab, count: usize) {
    wait_until("all have rested", async || {
        let pool = lab.pool();
        (pool.idle, pool.warm) == (count, 0)
    })
    .await;
}

#[tokio::test]
async fn one_that_answers_serves_after_one_more_round_trip_and_is_warm_again() {
    let lab = Lab::named("answers")
        .behind_proxy()
        .one_connection()
        .config(|config| {
            rest_soon(config);
            config.pool.warm_time = Duration::from_secs(2);
        })
        .start()
        .await;
    let before = pid(&lab.db).await;
    assert_eq!(pid(&lab.db).await, before);
    until_rested(&lab, 1).await;
    lab.proxy().reset_counters();
    assert_eq!(pid(&lab.db).await, before);
    assert_eq!(lab.proxy().round_trips(), 2);
    assert_eq!(lab.proxy().accepted(), 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn one_that_the_server_ended_meanwhile_costs_no_statement_not_even_a_write() {
    let lab = Lab::named("ended").behind_proxy().config(rest_soon).start().await;
    lab.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    for round in 1..=3_i64 {
        drop(try_join_all((0..5).map(|_| lab.db.acquire())).await.unwrap());
        wait_until("all have rested", async || lab.pool().warm == 0).await;
        end_sessions(lab.primary(), "application_name = 'ended'").await;
        sqlx::query("INSERT INTO t VALUES (1)").execute(&lab.db).await.unwrap();
        assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, round);
    }
    lab.engine.close().await;
}

/// Ten connections that take a detour and have rested; then the detour carries nothing any more,
/// and new connections do not take it.
async fn forgotten(name: &str) -> (Lab, Proxy) {
    let lab = Lab::named(name).behind_proxy().config(rest_soon).start().await;
    let detour = Proxy::start(lab.primary().addr()).await.unwrap();
    lab.proxy().set_target(detour.addr());
    // The one that `open` made goes the direct way.
    lab.proxy().reset().await;
    let leases = try_join_all((0..10).map(async |_| {
        let mut lease = lab.db.acquire().await?;
        while sqlx::query("SELECT 1").execute(&mut lease).await.is_err() {
            lease = lab.db.acquire().await?;
        }
        Ok::<_, sqlx::Error>(lease)
    }));
    let leases = leases.await.unwrap();
    until_sessions(lab.primary(), name, 10).await;
    // What ended a statement on the lost one may have come over one of its own.
    wait_until("no others go that way", async || detour.connections() == 10).await;
    drop(leases);
    until_rested(&lab, 10).await;
    detour.stall();
    detour.reset_counters();
    lab.proxy().set_target(lab.primary().addr());
    (lab, detour)
}

#[tokio::test]
async fn ten_that_a_firewall_forgot_cost_the_next_statement_a_ping_or_two() {
    let (lab, detour) = forgotten("firewall").await;
    let started = Instant::now();
    let next = pid(&lab.db).await;
    let took = started.elapsed();
    assert!(has_session(lab.primary(), next).await);
    assert!(took < ACQUIRE / 2, "{took:?}");
    // One for each connection that was spoken to.
    assert!((1..=2).contains(&detour.round_trips()), "{} pings", detour.round_trips());
    for _ in 0..5 {
        pid(&lab.db).await;
    }
    assert!(detour.round_trips() <= 2, "{} pings", detour.round_trips());
    lab.engine.close_within(Duration::ZERO).await;
}

#[tokio::test]
async fn nor_do_ten_statements_at_once_wait_for_all_of_them() {
    let (lab, detour) = forgotten("at_once").await;
    let started = Instant::now();
    let pids = (0..10).map(async |_| sqlx::query("SELECT 1").execute(&lab.db).await);
    try_join_all(pids).await.unwrap();
    let took = started.elapsed();
    assert!(took < ACQUIRE / 2, "{took:?}");
    // Each of the ten may have met one before any of them knew.
    assert!(detour.round_trips() <= 20, "{} pings", detour.round_trips());
    assert!(lab.pool().size <= 10);
    lab.engine.close_within(Duration::ZERO).await;
}

#[tokio::test]
async fn a_cancel_does_not_go_over_one_that_was_forgotten() {
    let lab = Lab::named("cancel").behind_proxy().without_client_check().config(rest_soon);
    let lab = lab.start().await;
    let mut tx = lab.db.begin().await.unwrap();
    let detour = Proxy::start(lab.primary().addr()).await.unwrap();
    lab.proxy().set_target(detour.addr());
    drop(try_join_all((0..5).map(|_| lab.db.acquire())).await.unwrap());
    until_rested(&lab, 5).await;
    detour.stall();
    lab.proxy().set_target(lab.primary().addr());
    let sleep = "SELECT pg_sleep(60)";
    {
        let mut slept = std::pin::pin!(sqlx::query(sleep).execute(&mut tx));
        tokio::select! {
            _ = &mut slept => panic!("it sleeps for long"),
            () = until_running(lab.primary(), "cancel", sleep) => {}
        }
    }
    tx.rollback().await.unwrap();
    assert_eq!(running(lab.primary(), "cancel", sleep).await, 0);
    pid(&lab.db).await;
    lab.engine.close_within(Duration::ZERO).await;
}

#[tokio::test]
async fn the_pg_pool_beside_goes_on_to_a_new_one_too() {
    let patient = |config: &mut EngineConfig| config.pool.ping_timeout = ACQUIRE / 6;
    let lab = Lab::named("beside").behind_proxy().config(rest_soon).config(patient).start().await;
    let pool = lab.engine.pool("main").unwrap();
    let detour = Proxy::start(lab.primary().addr()).await.unwrap();
    lab.proxy().set_target(detour.addr());
    drop(try_join_all((0..10).map(|_| pool.acquire())).await.unwrap());
    wait_until("all are given back", async || pool.num_idle() == 10).await;
    detour.stall();
    lab.proxy().set_target(lab.primary().addr());
    let started = Instant::now();
    for _ in 0..5 {
        sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    }
    // The time of one ping, and not of five.
    let took = started.elapsed();
    assert!(took < ACQUIRE / 2, "{took:?}");
    lab.engine.close_within(Duration::ZERO).await;
}
