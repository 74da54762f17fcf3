//! A request that began while there was one node.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_lab::{App, Lab};
use tokio::sync::Barrier;

use crate::common::NOTES;

#[tokio::test]
async fn what_it_writes_when_a_replica_has_come_is_in_its_token() {
    let mut replica = BTreeMap::new();
    let lab = Lab::named("first")
        .replicas(1)
        .table(NOTES)
        .config(|config| replica = std::mem::take(&mut config.extra_nodes))
        .start_closed()
        .await;
    let step = Arc::new(Barrier::new(2));
    let steps = Arc::clone(&step);
    let write = async move |db: Db| -> Result<(), DbError> {
        steps.wait().await;
        steps.wait().await;
        sqlx::query("INSERT INTO notes (title) VALUES ('a')").execute(&db).await?;
        Ok(())
    };
    let app = Router::new().route("/", post(write)).layer(EngineLayer::new(lab.engine.clone()));
    let app = App::start(app, lab.engine.clone()).await;
    let request = tokio::spawn(reqwest::Client::new().post(&app.url).send());
    step.wait().await;
    lab.engine.set_nodes(replica).await.unwrap();
    step.wait().await;
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("flautino-token"), "{answer:?}");
    app.stop().await;
}
