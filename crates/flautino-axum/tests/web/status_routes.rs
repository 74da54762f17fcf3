//! `/livez`, `/readyz` and `/status.json`, from before the opening to after the end.

use std::time::Duration;

use axum::Router;
use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_axum::status_routes;
use flautino_cluster::Node;
use flautino_lab::{cluster, wait_until};
use serde_json::{Value, json};

use crate::common::serve_plainly;

fn node(node: &Node) -> NodeConfig {
    let url = node.url().replace("postgres@", "postgres:geheim@");
    NodeConfig { url: Some(url), ..NodeConfig::default() }
}

async fn status(url: &str, path: &str) -> u16 {
    let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
    answer.status().as_u16()
}

async fn status_json(url: &str) -> Value {
    let answer = reqwest::get(format!("{url}/status.json")).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let text = answer.text().await.unwrap();
    assert!(!text.contains("geheim"), "{text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn readiness_follows_the_engine_and_liveness_does_not() {
    let cluster = cluster(0).await;
    let config = EngineConfig {
        main: node(cluster.primary()),
        extensions: vec![],
        ..EngineConfig::default()
    };
    let engine = Engine::new(config).unwrap();
    let url = serve_plainly(Router::new().merge(status_routes(engine.clone()))).await;
    let ask = async || {
        assert_eq!(status(&url, "/livez").await, 200);
        let open = status_json(&url).await["open"].as_bool().unwrap();
        (status(&url, "/readyz").await, open)
    };
    assert_eq!(ask().await, (503, false));
    engine.open().await.unwrap();
    assert_eq!(ask().await, (200, true));

    engine.start_draining();
    assert_eq!(ask().await, (503, true));
    let lease = engine.handle().acquire().await.unwrap();
    let closing = tokio::spawn({
        let engine = engine.clone();
        async move { engine.close_within(Duration::from_secs(20)).await }
    });
    wait_until("it closes", async || ask().await == (503, false)).await;
    drop(lease);
    closing.await.unwrap();
    assert_eq!(ask().await, (503, false));

    engine.open().await.unwrap();
    assert_eq!(ask().await, (200, true));
    engine.close().await;
}

#[tokio::test]
async fn the_status_says_what_is_open_where_and_how_busy() {
    let cluster = cluster(2).await;
    let mut config = EngineConfig {
        main: node(cluster.primary()),
        extensions: vec![],
        ..EngineConfig::default()
    };
    config.pool.max_connections = 4;
    for (name, index) in [("a", 0), ("b", 1)] {
        let replica = node(cluster.replica(index));
        config.extra_nodes.insert(name.to_owned(), replica);
    }
    let engine = Engine::new(config).unwrap();
    let url = serve_plainly(Router::new().merge(status_routes(engine.clone()))).await;

    let before = status_json(&url).await;
    assert_eq!(before["primary"], Value::Null);
    assert_eq!(before["nodes"][0]["role"], "unknown");
    assert_eq!(before["nodes"][0]["health"], "unknown");
    assert_eq!(before["nodes"][0]["pool"], Value::Null);

    cluster.replica(1).stop().await.unwrap();
    engine.open().await.unwrap();
    let db = engine.handle();
    let (lease, other) = (db.acquire().await.unwrap(), db.acquire().await.unwrap());
    drop(other);
    for _ in 0..3 {
        sqlx::query("SELECT 1").execute(&db.primary()).await.unwrap();
    }
    let named = db.node("a").unwrap();
    sqlx::query("SELECT 1").execute(&named).await.unwrap();

    let status = status_json(&url).await;
    assert_eq!(status["open"], true);
    assert_eq!(status["primary"], "main");
    assert_eq!(status["decisions"], json!({"primary_chosen": 3, "named_node": 1}));
    let main = &status["nodes"][0];
    let expected = json!({
        "name": "main", "host": "127.0.0.1", "port": cluster.primary().port(),
        "role": "primary", "health": "up", "reason": null, "in_flight": 1,
        "timeline": 1, "lag_bytes": 0, "lag_ms": 0,
        "pool": {
            "size": 2, "idle": 1, "warm": 1, "in_use": 1, "connecting": 0, "waiting": 0, "max": 4
        },
        "statements": 3,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&main[key], value, "{key}");
    }
    let names: Vec<_> = [0, 1, 2].map(|n| status["nodes"][n]["name"].clone()).into();
    assert_eq!(names, ["main", "a", "b"]);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    let (a, b) = (&status["nodes"][1], &status["nodes"][2]);
    assert_eq!((&a["role"], &a["statements"]), (&json!("replica"), &json!(1)));
    assert_eq!(a["port"], cluster.replica(0).port());
    assert_eq!((&b["role"], &b["health"]), (&json!("unknown"), &json!("down")));
    assert!(b["reason"].as_str().unwrap().contains("refused"), "{b}");

    drop(lease);
    assert_eq!(status_json(&url).await["nodes"][0]["in_flight"], 0);
    engine.close().await;
    let after = status_json(&url).await;
    assert_eq!((&after["open"], &after["nodes"][0]["pool"]), (&json!(false), &Value::Null));
}
