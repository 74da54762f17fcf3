//! A main node that cannot be reached or refuses: a clear error, soon where waiting is in vain.

use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig, OpenError};
use flautino_cluster::{Node, Proxy};
use flautino_lab::{Capture, ask, cluster, config, until_sessions, wait_until};

async fn refused(config: EngineConfig) -> String {
    let engine = Engine::new(config).unwrap();
    let started = Instant::now();
    let err = engine.open().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{err}");
    assert!(matches!(err, OpenError::Refused(_)), "{err:?}");
    assert!(!engine.status().open);
    assert!(!engine.close().await.was_open);
    let text = err.to_string();
    assert!(text.contains("main"), "{text}");
    text
}

/// From now on a password is asked for.
async fn ask_for_passwords(node: &Node) {
    // PostgreSQL 13 would keep the password in the old way.
    let sql =
        "SET password_encryption = 'scram-sha-256'; CREATE ROLE locked LOGIN PASSWORD 'right'";
    node.execute(sql).await.unwrap();
    let path = node.data_dir().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&path).unwrap();
    let own = "host all locked 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(&path, format!("{own}{rules}")).unwrap();
    node.execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("the rule is in force", async || {
        let sql = "SELECT count(*) FROM pg_hba_file_rules WHERE user_name = '{locked}'";
        ask::<i64>(node, sql).await > 0
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_is_an_error_at_once_that_does_not_show_it() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    ask_for_passwords(node).await;
    let mut config = config(&cluster, "locked");
    config.main.url = Some(format!("postgres://locked@127.0.0.1:{}/postgres", node.port()));
    config.main.password = Some("right".to_owned());
    let engine = Engine::new(config.clone()).unwrap();
    wait_until("the rule is in force for new sessions", async || {
        let mut wrong = config.clone();
        wrong.main.password = Some("hunter2".to_owned());
        let wrong = Engine::new(wrong).unwrap();
        sqlx::query("SELECT 1").execute(&wrong.handle()).await.is_err()
    })
    .await;
    engine.open().await.unwrap();
    let user: String =
        sqlx::query_scalar("SELECT current_user::text").fetch_one(&engine.handle()).await.unwrap();
    assert_eq!(user, "locked");
    engine.close().await;

    config.main.password = Some("hunter2".to_owned());
    let text = refused(config).await;
    assert!(text.contains("password authentication failed"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_missing_database_and_a_missing_role_are_errors_at_once() {
    let cluster = cluster(0).await;
    let mut config = config(&cluster, "missing");
    config.main.url = Some(cluster.primary().url_for("no_such_database"));
    let text = refused(config.clone()).await;
    assert!(text.contains("no_such_database"), "{text}");

    let port = cluster.primary().port();
    config.main.url = Some(format!("postgres://nobody_here@127.0.0.1:{port}/postgres"));
    let text = refused(config).await;
    assert!(text.contains("nobody_here"), "{text}");
}

#[tokio::test]
async fn a_main_node_that_stays_away_is_an_error_that_names_every_node_after_the_timeout() {
    let cluster = cluster(1).await;
    let mut config = config(&cluster, "away");
    config.startup_timeout = Duration::from_millis(1500);
    for node in cluster.nodes() {
        node.kill().await.unwrap();
    }
    let engine = Engine::new(config).unwrap();
    let capture = Capture::start();
    let started = Instant::now();
    let err = engine.open().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{err}");
    let OpenError::Unreachable { nodes, waited } = &err else { panic!("{err:?}") };
    assert!(*waited <= Duration::from_millis(4500), "{waited:?}");
    let names: Vec<_> = nodes.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(names, ["main", "read_replica_1"]);
    for part in ["main", "read_replica_1", &cluster.primary().port().to_string(), "refused"] {
        assert!(err.to_string().contains(part), "{err}");
    }
    assert!(capture.warnings().iter().any(|text| text.contains("waiting")), "it tells");
}

#[tokio::test]
async fn open_waits_for_a_main_node_that_comes_up_later() {
    let cluster = cluster(0).await;
    cluster.primary().stop().await.unwrap();
    let engine = Engine::new(config(&cluster, "later")).unwrap();
    let (opened, ()) = tokio::join!(engine.open(), async {
        cluster.primary().start().await.unwrap();
    });
    assert!(!opened.unwrap().already_open);
    until_sessions(cluster.primary(), "later", 1).await;
    engine.close().await;
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_does_not_hold_up_open_for_ever() {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = config(&cluster, "silent");
    config.main.url = Some(proxy.url());
    config.main.connect_timeout = Some(Duration::from_millis(300));
    config.startup_timeout = Duration::from_secs(1);
    proxy.stall();
    let engine = Engine::new(config).unwrap();
    let started = Instant::now();
    let err = engine.open().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(4), "{err}");
    assert!(err.to_string().contains("did not answer"), "{err}");
}
