//! A request that began while there was one node.

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_lab::{App, cluster};
use tokio::sync::Barrier;

use crate::common::create_notes;

#[tokio::test]
async fn what_it_writes_when_a_replica_has_come_is_in_its_token() {
    let cluster = cluster(1).await;
    create_notes(cluster.primary()).await;
    let mut config = flautino_lab::config(&cluster, "first");
    let replica = std::mem::take(&mut config.extra_nodes);
    let engine = flautino::Engine::new(config).unwrap();
    let step = Arc::new(Barrier::new(2));
    let steps = Arc::clone(&step);
    let write = async move |db: Db| -> Result<(), DbError> {
        steps.wait().await;
        steps.wait().await;
        sqlx::query("INSERT INTO notes (title) VALUES ('a')").execute(&db).await?;
        Ok(())
    };
    let app = Router::new().route("/", post(write)).layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    let request = tokio::spawn(reqwest::Client::new().post(&app.url).send());
    step.wait().await;
    engine.set_nodes(replica).await.unwrap();
    step.wait().await;
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("flautino-token"), "{answer:?}");
    app.stop().await;
}
