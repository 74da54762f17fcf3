//! What the layer costs a request that does not query: nothing (trap 23).

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use flautino::{Engine, EngineConfig};
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_cluster::Proxy;
use flautino_lab::cluster;

use crate::common::serve_plainly;

fn app(engine: &Engine) -> Router {
    let query = async |db: Db| -> Result<(), DbError> {
        sqlx::query("SELECT 1").execute(&db).await?;
        Ok(())
    };
    Router::new()
        .route("/plain", get(async || "plain"))
        .route("/db", get(async |_: Db| "db"))
        .route("/tx", get(async |_: Tx| "tx"))
        .route("/query", get(query))
        .layer(EngineLayer::new(engine.clone()).server_timing(true))
}

async fn ask_all(url: &str) {
    for _ in 0..20 {
        for path in ["plain", "db", "tx"] {
            let answer = reqwest::get(format!("{url}/{path}")).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert!(!answer.headers().contains_key("server-timing"));
            assert_eq!(answer.text().await.unwrap(), path);
        }
    }
}

#[tokio::test]
async fn a_request_that_does_not_query_costs_the_server_nothing() {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = EngineConfig::from_url(&proxy.url()).unwrap();
    config.extensions.clear();
    // What has rested for a second would be looked at.
    config.pool.warm_time = Duration::from_secs(60);
    let engine = Engine::new(config).unwrap();
    let url = serve_plainly(app(&engine)).await;

    // Not open, each query would have a connection of its own.
    ask_all(&url).await;
    assert_eq!(proxy.accepted(), 0);
    reqwest::get(format!("{url}/query")).await.unwrap();
    assert_eq!(proxy.accepted(), 1);

    engine.open().await.unwrap();
    let (accepted, trips) = (proxy.accepted(), proxy.round_trips());
    let statements = || engine.status().nodes[0].statements;
    let before = statements();
    ask_all(&url).await;
    assert_eq!(proxy.accepted(), accepted);
    assert_eq!(proxy.round_trips(), trips);
    assert_eq!(statements(), before);
    reqwest::get(format!("{url}/query")).await.unwrap();
    assert_eq!(statements(), before + 1);
    assert!(proxy.round_trips() > trips);
    engine.close().await;
}
