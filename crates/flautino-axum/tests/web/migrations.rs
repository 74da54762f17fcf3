//! Migrations that `serve` runs before it serves.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use flautino::{Access, Engine};
use flautino_axum::{Db, DbError, EngineLayer, ServeError, serve};
use flautino_cluster::Cluster;
use flautino_lab::{Lab, ask, config, until_running, wait_until};
use sqlx::migrate::Migrator;
use tokio::net::TcpListener;
use tokio::sync::watch;

const TABLE: &str = "CREATE TABLE steps (id int)";

/// Migrations of these texts, for as long as the process runs.
async fn migrations(texts: &[&str]) -> &'static Migrator {
    let folder = tempfile::tempdir().unwrap();
    for (number, text) in texts.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}_step.sql")), text).unwrap();
    }
    Box::leak(Box::new(Migrator::new(folder.path()).await.unwrap()))
}

async fn count(db: Db) -> Result<String, DbError> {
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM steps").fetch_one(&db).await?;
    Ok(format!("{count} {}", db.served_by().unwrap()))
}

async fn answer(url: &str) -> String {
    let answer = reqwest::get(url).await.unwrap().error_for_status().unwrap();
    answer.text().await.unwrap()
}

fn app(engine: &Engine) -> Router {
    Router::new().route("/", get(count)).layer(EngineLayer::new(engine.clone()))
}

#[tokio::test]
async fn ten_instances_that_start_at_once_migrate_once() {
    let cluster =
        Cluster::builder().replicas(1).setting("max_connections", "200").start().await.unwrap();
    // An index that is built concurrently waits for every statement with a snapshot, also for one that waits for a
    // lock.
    let index = "-- no-transaction\nCREATE INDEX CONCURRENTLY steps_id ON steps (id)";
    let migrator = migrations(&[TABLE, "INSERT INTO steps VALUES (1)", index]).await;
    let (stop, stopped) = watch::channel(false);
    let mut instances = Vec::new();
    for _ in 0..10 {
        let engine = Engine::new(config(&cluster, "migrations")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut stopped = stopped.clone();
        let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
        let serving = serve(listener, app(&engine), engine).migrate(migrator);
        let serving = tokio::spawn(serving.with_shutdown(shutdown).into_future());
        instances.push((url, serving));
    }
    for (url, _) in &instances {
        assert!(answer(url).await.starts_with("1 "));
    }
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM _sqlx_migrations").await, 3);
    stop.send(true).unwrap();
    for (_, serving) in instances {
        assert!(serving.await.unwrap().unwrap().close.was_open);
    }
}

#[tokio::test]
async fn no_read_goes_to_a_replica_that_has_not_replayed_them() {
    let lab = Lab::named("late").replicas(1).config(|config| {
        // So that the replica stays in the rotation.
        config.routing.max_lag = Duration::from_secs(60 * 60);
        config.routing.token_window = Duration::from_secs(60 * 60);
    });
    let lab = lab.start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    replay_late(&lab.cluster).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = serve(listener, app(&lab.engine), lab.engine.clone())
        .migrate(migrations(&[TABLE, "INSERT INTO steps VALUES (1)"]).await)
        .with_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serving.into_future());
    // What is asked is a read as soon as the engine has looked at the new table.
    wait_until("the table is known", async || {
        assert_eq!(answer(&url).await, "1 main");
        lab.engine.access("SELECT count(*) FROM steps") == Access::Read
    })
    .await;
    for _ in 0..10 {
        assert_eq!(answer(&url).await, "1 main");
    }
    let status = lab.engine.status();
    assert_eq!(status.decisions.get("rescued"), None, "a replica was asked: {status:#?}");
    assert!(status.decisions["floor_ahead"] >= 10, "{status:#?}");
    let replica = lab.cluster.replica(0);
    replica.execute("ALTER SYSTEM RESET recovery_min_apply_delay").await.unwrap();
    replica.execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("it serves them when it has", async || answer(&url).await == "1 read_replica_1")
        .await;
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}

/// From now on the replica replays what it receives an hour later.
async fn replay_late(cluster: &Cluster) {
    let replica = cluster.replica(0);
    replica.execute("ALTER SYSTEM SET recovery_min_apply_delay = '1h'").await.unwrap();
    replica.execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("it replays late", async || {
        let commit = "SELECT pg_logical_emit_message(true, 'test', 'commit')";
        cluster.primary().execute(commit).await.unwrap();
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'RecoveryApplyDelay'";
        ask::<i64>(replica, waits).await == 1
    })
    .await;
}

#[tokio::test]
async fn one_that_fails_ends_serve_with_its_error_and_nothing_was_served() {
    let cluster = flautino_lab::cluster(0).await;
    let engine = Engine::new(config(&cluster, "failing")).unwrap();
    let migrator = migrations(&[TABLE, "SELECT nothing"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = serve(listener, app(&engine), engine.clone()).migrate(migrator).await.unwrap_err();
    assert!(matches!(error, ServeError::Migrate(_)));
    let told = error.to_string();
    assert!(told.starts_with("cannot migrate the database") && told.contains("nothing"), "{told}");
    assert!(!engine.is_ready());
    TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn a_signal_in_the_middle_of_one_ends_it_at_the_server() {
    const LONG: &str = "SELECT pg_sleep(600)";
    let cluster = flautino_lab::cluster(0).await;
    let engine = Engine::new(config(&cluster, "signalled")).unwrap();
    let migrator = migrations(&[TABLE, LONG]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = serve(listener, app(&engine), engine.clone())
        .migrate(migrator)
        .with_shutdown(async { drop(stopped.await) });
    let serving = tokio::spawn(serving.into_future());
    until_running(cluster.primary(), "signalled", LONG).await;
    stop.send(()).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), serving).await.unwrap();
    ended.unwrap().unwrap();
    wait_until("it has ended at the server", async || {
        ask::<i64>(
            cluster.primary(),
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'signalled'",
        )
        .await
            == 0
    })
    .await;
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM _sqlx_migrations").await, 1);
}
