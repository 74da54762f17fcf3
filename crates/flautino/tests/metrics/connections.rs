//! What is told of connections, by the conventions of OpenTelemetry.

use std::time::{Duration, Instant};

use flautino::{Engine, Error};
use flautino_lab::{Lab, cluster, open};
use sqlx::PgPool;

use crate::page::{Metrics, start};

const COUNT: &str = "db_client_connection_count";
const PENDING: &str = "db_client_connection_pending_requests";
const TIMEOUTS: &str = "db_client_connection_timeouts_total";
const IN_QUEUE: &str = "step=\"waiting_for_slot\"";
const FAILURES: &str = "flautino_node_failures_total";

#[tokio::test]
async fn who_waits_who_uses_and_who_got_none_in_time_is_told() {
    let lab = Lab::named("connections").one_connection().config(|config| {
        config.pool.acquire_timeout = Duration::from_secs(2);
    });
    let lab = start(lab).await;
    let main = Metrics::of(&lab.engine, "main");
    main.until(COUNT, "state=\"idle\"", |count| count == 1.0).await;
    main.until("db_client_connection_max", "", |max| max == 1.0).await;
    assert_eq!(main.value(TIMEOUTS, IN_QUEUE), Some(0.0));
    let used_before = main.value("db_client_connection_use_time_seconds_sum", "").unwrap();

    let lease = lab.db.acquire().await.unwrap();
    let taken = Instant::now();
    main.until(COUNT, "state=\"used\"", |count| count == 1.0).await;
    main.until(COUNT, "state=\"idle\"", |count| count == 0.0).await;
    // Whoever waits gets nothing, and tries again for as long as it takes to be seen.
    let db = lab.db.clone();
    let waiting = tokio::spawn(async move {
        loop {
            let error = sqlx::query("SELECT 1").execute(&db).await.unwrap_err();
            assert!(matches!(Error::of(&error), Some(Error::AcquireTimeout { .. })), "{error}");
        }
    });
    main.until(PENDING, "", |count| count == 1.0).await;
    main.until(TIMEOUTS, IN_QUEUE, |count| count >= 1.0).await;
    assert_eq!(main.value(FAILURES, ""), Some(0.0), "the server is not to blame");
    waiting.abort();
    let _ = waiting.await;
    let held = taken.elapsed().as_secs_f64();
    drop(lease);

    main.until("db_client_connection_use_time_seconds_sum", "", |sum| sum - used_before >= held)
        .await;
    main.until(PENDING, "", |count| count == 0.0).await;
    for made in ["create_time", "wait_time"] {
        let count = format!("db_client_connection_{made}_seconds_count");
        main.until(&count, "", |count| count >= 1.0).await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn waiting_for_a_connection_takes_as_long_as_is_told() {
    let lab = start(Lab::named("waiting").one_connection()).await;
    let main = Metrics::of(&lab.engine, "main");
    let waited = || main.value("db_client_connection_wait_time_seconds_sum", "").unwrap();
    sqlx::query("SELECT 1").execute(&lab.db).await.unwrap();
    let before = waited();
    let lease = lab.db.acquire().await.unwrap();
    let waiting = tokio::spawn({
        let db = lab.db.clone();
        async move { sqlx::query("SELECT 1").execute(&db).await.map(drop) }
    });
    main.until(PENDING, "", |count| count == 1.0).await;
    let since = Instant::now();
    // Long enough to differ from none, however long the machine takes.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let at_least = since.elapsed().as_secs_f64();
    drop(lease);
    waiting.await.unwrap().unwrap();
    assert!(waited() - before >= at_least, "{} {before}", waited());
    lab.engine.close().await;
}

#[tokio::test]
async fn an_engine_over_the_app_s_own_pool_is_measured_once_it_is_opened() {
    let cluster = cluster(0).await;
    let pool = PgPool::connect(&cluster.primary().url()).await.unwrap();
    let engine = Engine::from_pool(pool);
    let main = Metrics::of(&engine, "main");
    assert!(engine.open().await.unwrap().already_open);
    let lease = engine.handle().acquire().await.unwrap();
    main.until(COUNT, "state=\"used\"", |count| count == 1.0).await;
    // Nobody has asked the server.
    assert!(main.value("flautino_node_up", "").unwrap().is_nan());
    drop(lease);
    main.until(COUNT, "state=\"used\"", |count| count == 0.0).await;
    engine.close().await;
    main.until("db_client_connection_max", "", |max| max == 0.0).await;
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_without_replicas_too() {
    let lab = start(Lab::named("gone")).await;
    let main = Metrics::of(&lab.engine, "main");
    main.until(FAILURES, "", |count| count == 0.0).await;
    lab.primary().kill().await.unwrap();
    for _ in 0..3 {
        sqlx::query("SELECT 1").execute(&lab.db).await.unwrap_err();
    }
    assert!(main.value(FAILURES, "").unwrap() >= 3.0);
    // Nothing asks whether it is still there.
    assert!(main.value("flautino_node_up", "").unwrap().is_nan());
    assert!(main.value("flautino_node_primary", "").unwrap().is_nan());
    lab.engine.close().await;
}

#[tokio::test]
async fn engines_of_one_database_are_told_apart_by_their_names() {
    let lab = start(Lab::named("web").config(|config| config.pool.max_connections = 7)).await;
    let mut config = lab.config.clone();
    config.name = "jobs".to_owned();
    config.pool.max_connections = 3;
    let jobs = open(config).await;
    for (engine, name, max) in [(&lab.engine, "default", 7.0), (&jobs, "jobs", 3.0)] {
        let main = Metrics::of(engine, "main").of_engine(name);
        main.until("db_client_connection_max", "", |told| told == max).await;
    }
    jobs.close().await;
    let closed = Metrics::of(&lab.engine, "main").of_engine("jobs");
    closed.until("db_client_connection_max", "", |told| told == 0.0).await;
    let open = Metrics::of(&lab.engine, "main").of_engine("default");
    assert_eq!(open.value("db_client_connection_max", ""), Some(7.0));
    lab.engine.close().await;
}
