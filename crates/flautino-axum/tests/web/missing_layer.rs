//! A route without the layer says so (trap 24).

use axum::Router;
use axum::routing::get;
use flautino_axum::{Db, EngineLayer, Tx};
use flautino_lab::{Capture, Lab};
use tracing::Level;

use crate::common::serve_plainly;

#[tokio::test]
async fn without_the_layer_db_and_tx_answer_500_and_name_the_layer_and_the_fix() {
    let log = Capture::start();
    let app = Router::new()
        .route("/db", get(async |_: Db| "never"))
        .route("/tx", get(async |_: Tx| "never"));
    let url = serve_plainly(app).await;
    for path in ["db", "tx"] {
        let answer = reqwest::get(format!("{url}/{path}")).await.unwrap();
        assert_eq!(answer.status(), 500, "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("EngineLayer is missing"), "{path}: {text}");
        assert!(text.contains(".layer(EngineLayer::new(engine))"), "{path}: {text}");
        let logged = log.all().into_iter().filter(|event| {
            event.level == Level::ERROR && event.field("message").contains("EngineLayer")
        });
        assert_eq!(logged.count(), if path == "db" { 1 } else { 2 });
    }
}

#[tokio::test]
async fn a_route_added_after_the_layer_is_without_it_and_the_others_work() {
    let lab = Lab::named("missing").start().await;
    let node = async |db: Db| db.node("main").unwrap().node_name().unwrap_or_default().to_owned();
    let app = Router::new()
        .route("/before", get(node))
        .layer(EngineLayer::new(lab.engine.clone()))
        .route("/after", get(node));
    let url = serve_plainly(app).await;
    let before = reqwest::get(format!("{url}/before")).await.unwrap();
    assert_eq!(before.text().await.unwrap(), "main");
    let after = reqwest::get(format!("{url}/after")).await.unwrap();
    assert_eq!(after.status(), 500);
    // It says where to add the layer, which is what was done wrong here.
    assert!(after.text().await.unwrap().contains("after the routes"));
    lab.engine.close().await;
}
