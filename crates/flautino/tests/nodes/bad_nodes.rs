//! Names and settings that are not acceptable: the key and why, and nothing is changed.

use flautino::{ConfigError, NodeConfig};
use flautino_lab::{cluster, until_served_by};

use crate::common::{MAIN, Nodes, eager, names, node_at, open_with, these, unopened};

const SECRET: &str = "Zq7Zq7Zq7Zq7";

/// The key of the error.
fn key(error: &ConfigError) -> &str {
    match error {
        ConfigError::Key { key, .. } => key,
        other => panic!("no key in {other:?}"),
    }
}

fn bad() -> Vec<(&'static str, NodeConfig, &'static str)> {
    let good = || NodeConfig { host: Some("127.0.0.1".to_owned()), ..NodeConfig::default() };
    let url = |url: &str| node_at(url.replace("SECRET", SECRET), "bad");
    vec![
        ("main", good(), "extra_nodes.main"),
        ("", good(), "extra_nodes."),
        (" ", good(), "extra_nodes. "),
        ("two words", good(), "extra_nodes.two words"),
        ("line\nbreak", good(), "extra_nodes.line\nbreak"),
        ("nul\0", good(), "extra_nodes.nul\0"),
        ("r9", url("no url SECRET"), "extra_nodes.r9.url"),
        ("r9", url("mysql://me:SECRET@localhost/db"), "extra_nodes.r9.url"),
        ("r9", url("postgres://me:SECRET@localhost:99999/db"), "extra_nodes.r9.url"),
        ("r9", url("postgres://me:SECRET@localhost:0/db"), "extra_nodes.r9.url"),
        ("r9", url("postgres://me:SECRET@localhost/db?sslmod=no"), "extra_nodes.r9.url"),
        (
            "r9",
            NodeConfig { port: Some(1), ..url("postgres://me:SECRET@localhost/db") },
            "extra_nodes.r9.port",
        ),
        (
            "r9",
            NodeConfig { ssl_mode: Some("perhaps".to_owned()), ..good() },
            "extra_nodes.r9.ssl_mode",
        ),
        (
            "r9",
            NodeConfig { log_statements: Some("loud".to_owned()), ..good() },
            "extra_nodes.r9.log_statements",
        ),
        (
            "r9",
            NodeConfig { connect_timeout: Some(std::time::Duration::ZERO), ..good() },
            "extra_nodes.r9.connect_timeout",
        ),
    ]
}

#[tokio::test]
async fn what_is_not_acceptable_is_told_with_its_key_and_changes_nothing() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "bad", &[0], eager).await;
    until_served_by(&engine, &["r1"]).await;
    for (name, config, expected) in bad() {
        // One that is good beside it does not come, and the one that is missing does not go.
        let mut nodes = these(&cluster, "bad", &[1]);
        nodes.insert(name.to_owned(), config);
        let error = engine.set_nodes(nodes).await.unwrap_err();
        assert_eq!(key(&error), expected);
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(!text.contains(SECRET), "{text}");
        }
        assert_eq!(names(&engine), [MAIN, "r1"]);
    }
    until_served_by(&engine, &["r1"]).await;
    engine.close().await;
}

#[tokio::test]
async fn it_is_told_so_before_open_and_after_close_too() {
    let cluster = cluster(1).await;
    let engine = unopened(&cluster, "bad", &[0], eager);
    for round in 0..2 {
        for (name, config, expected) in bad() {
            let error = engine.set_nodes(Nodes::from([(name.to_owned(), config)])).await;
            assert_eq!(key(&error.unwrap_err()), expected);
            assert_eq!(names(&engine), [MAIN, "r1"]);
        }
        if round == 0 {
            engine.open().await.unwrap();
            engine.close().await;
        }
    }
}
