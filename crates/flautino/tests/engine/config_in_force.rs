//! What stands in the configuration is what the server sees.

use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig, OpenError};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{ask, cluster, is_since, open, sqlstate, until_sessions, wait_until};
use sqlx::{AssertSqlSafe, Row};

fn toml(node: &Node, more: &str) -> EngineConfig {
    EngineConfig::from_toml(&format!(
        "host = '127.0.0.1'\nport = {}\nuser = 'postgres'\ndatabase = 'postgres'\n\
         extensions = []\n{more}",
        node.port()
    ))
    .unwrap()
}

async fn open_with(cluster: &Cluster, more: &str) -> Engine {
    open(toml(cluster.primary(), more)).await
}

async fn setting(db: &flautino::Handle, name: &str) -> String {
    sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(db).await.unwrap()
}

#[tokio::test]
async fn name_and_options_are_in_force_at_the_server() {
    let cluster = cluster(0).await;
    let engine = open_with(
        &cluster,
        r#"application_name = "in force"
           options = { search_path = "app, public", work_mem = "7MB" }"#,
    )
    .await;
    let db = engine.handle();
    until_sessions(cluster.primary(), "in force", 1).await;
    assert_eq!(setting(&db, "search_path").await, "app, public");
    assert_eq!(setting(&db, "work_mem").await, "7MB");
    engine.close().await;
}

#[tokio::test]
async fn a_time_limit_of_statements_is_in_force_on_new_and_on_washed_connections() {
    let cluster = cluster(0).await;
    let engine =
        open_with(&cluster, "statement_timeout = '200ms'\n[pool]\nmax_connections = 1").await;
    let db = engine.handle();
    for _ in 0..2 {
        assert_eq!(setting(&db, "statement_timeout").await, "200ms");
        let mut lease = db.acquire().await.unwrap();
        sqlx::query("SET statement_timeout = 0").execute(&mut lease).await.unwrap();
    }
    let slow = sqlx::query("SELECT pg_sleep(20)").execute(&db).await;
    assert_eq!(sqlstate(&slow.unwrap_err()), "57014");
    engine.close().await;
}

#[tokio::test]
async fn how_often_the_server_looks_for_its_client_is_in_force_on_new_and_on_washed_connections() {
    let cluster = cluster(0).await;
    if !is_since(14, cluster.primary(), "client_connection_check_interval").await {
        return;
    }
    let engine = open_with(&cluster, "[pool]\nmax_connections = 1").await;
    let db = engine.handle();
    for _ in 0..2 {
        assert_eq!(setting(&db, "client_connection_check_interval").await, "1s");
        let mut lease = db.acquire().await.unwrap();
        let set = sqlx::query("SET client_connection_check_interval = 0");
        set.execute(&mut lease).await.unwrap();
    }
    engine.close().await;

    let engine = open_with(&cluster, "client_check_interval = '250ms'").await;
    let interval = setting(&engine.handle(), "client_connection_check_interval").await;
    assert_eq!(interval, "250ms");
    engine.close().await;
    let engine = open_with(&cluster, "client_check_interval = 0").await;
    let interval = setting(&engine.handle(), "client_connection_check_interval").await;
    assert_eq!(interval, "0");
    engine.close().await;
}

#[test]
fn a_session_timeout_that_the_server_cannot_hold_is_refused() {
    for (key, value) in [
        ("statement_timeout", "60days"),
        ("client_check_interval", "60days"),
        ("statement_timeout", "500us"),
    ] {
        let text = format!("host = 'localhost'\nuser = 'u'\n{key} = '{value}'");
        let err = EngineConfig::from_toml(&text).unwrap_err().to_string();
        assert!(err.contains(key) && err.contains("expected 0 or 1ms to 24days"), "{err}");
    }
}

#[tokio::test]
async fn as_many_statements_stay_prepared_as_the_configuration_says() {
    let cluster = cluster(0).await;
    for (more, expected) in
        [("", 5), ("statement_cache_capacity = 2", 2), ("statement_cache_capacity = 0", 0)]
    {
        let engine = open_with(&cluster, more).await;
        let mut lease = engine.handle().acquire().await.unwrap();
        for n in 0..5 {
            let sql = format!("SELECT $1::int4 + {n}");
            let sum: i32 =
                sqlx::query_scalar(AssertSqlSafe(sql)).bind(1).fetch_one(&mut lease).await.unwrap();
            assert_eq!(sum, n + 1);
        }
        let count = sqlx::raw_sql("SELECT count(*) FROM pg_prepared_statements");
        let count = sqlx::Executor::fetch_one(&mut lease, count).await.unwrap();
        assert_eq!(count.get::<i64, _>(0), expected, "{more}");
        drop(lease);
        engine.close().await;
    }
}

#[tokio::test]
async fn ssl_mode_require_is_a_clear_error_where_there_is_no_tls_and_disable_works() {
    let cluster = cluster(0).await;
    let engine = Engine::new(toml(cluster.primary(), "ssl_mode = 'require'")).unwrap();
    let started = Instant::now();
    let err = engine.open().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{err}");
    assert!(matches!(err, OpenError::Refused(_)), "{err:?}");
    assert!(err.to_string().contains("TLS"), "{err}");

    let engine = open_with(&cluster, "ssl_mode = 'disable'").await;
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&engine.handle()).await.unwrap();
    let sql = format!("SELECT ssl FROM pg_stat_ssl WHERE pid = {pid}");
    assert!(!ask::<bool>(cluster.primary(), &sql).await);
    engine.close().await;
}

#[tokio::test]
async fn sessions_on_a_replica_are_read_only_by_default_and_on_the_primary_not() {
    let cluster = cluster(1).await;
    let replica = cluster.replica(0);
    let more = format!(
        "[extra_nodes.copy]\nhost = '127.0.0.1'\nport = {}\nuser = 'postgres'\n\
         database = 'postgres'",
        replica.port()
    );
    let engine = open_with(&cluster, &more).await;
    let db = engine.handle().primary();
    let copy = db.node("copy").unwrap();
    assert_eq!(setting(&db, "default_transaction_read_only").await, "off");
    assert_eq!(setting(&copy, "default_transaction_read_only").await, "on");
    let mut lease = copy.acquire().await.unwrap();
    sqlx::query("SET default_transaction_read_only = off").execute(&mut lease).await.unwrap();
    drop(lease);
    wait_until("the lease is washed", async || engine.status().nodes[1].pool.unwrap().idle > 0)
        .await;
    assert_eq!(setting(&copy, "default_transaction_read_only").await, "on");
    engine.close().await;
}

#[tokio::test]
async fn a_password_shows_in_no_debug_text_and_no_error() {
    let config = EngineConfig::from_toml(
        "host = '127.0.0.1'\nport = 1\nuser = 'u'\npassword = 'hunter2'\nstartup_timeout = '1ms'\n\
         [extra_nodes.a]\nurl = 'postgres://u:hunter2@127.0.0.1:1/db?password=hunter2'",
    )
    .unwrap();
    let engine = Engine::new(config.clone()).unwrap();
    let opened = engine.open().await;
    let query = sqlx::query("SELECT 1").execute(&engine.handle()).await;
    let status = serde_json::to_string(&engine.status()).unwrap();
    let db = engine.handle();
    let told = engine.settings();
    assert_eq!(told["pool.max_connections"], "10");
    assert_eq!(told["startup_timeout"], "1ms");
    let text =
        format!("{config:?} {config:#?} {engine:?} {db:?} {opened:?} {query:?} {status} {told:?}");
    assert!(!text.contains("hunter2"), "{text}");
    let shown = format!("{} {}", opened.unwrap_err(), query.unwrap_err());
    assert!(!shown.contains("hunter2"), "{shown}");
}
