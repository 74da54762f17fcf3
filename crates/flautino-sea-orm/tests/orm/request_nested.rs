//! Transactions that are nested in a request's, which the layer ends.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use flautino::{IsolationLevel, TransactionOptions};
use flautino_axum::EngineLayer;
use flautino_lab::{App, Lab};
use flautino_sea_orm::{DbError, Transaction, Tx};
use sea_orm::{ActiveModelTrait, ConnectionTrait, DbBackend, Statement, TransactionTrait};

use crate::common::{alone, new_cake, stored};

async fn nested(tx: Tx) -> Result<StatusCode, DbError> {
    new_cake("outer").insert(&tx).await?;
    let kept = tx.begin().await?;
    new_cake("kept").insert(&kept).await?;
    kept.commit().await?;
    let undone = tx.begin().await?;
    new_cake("undone").insert(&undone).await?;
    undone.execute_unprepared("SELECT nothing").await.unwrap_err();
    // Dropped at the very end, it is undone before the layer commits.
    Ok(StatusCode::CREATED)
}

async fn ended_early(tx: Tx) -> Result<StatusCode, DbError> {
    let undone = tx.begin().await?;
    new_cake("undone").insert(&undone).await?;
    undone.rollback().await?;
    new_cake("early").insert(&tx).await?;
    tx.commit().await?;
    Ok(StatusCode::IM_A_TEAPOT)
}

async fn rolled_back(tx: Tx) -> Result<StatusCode, DbError> {
    new_cake("never").insert(&tx).await?;
    tx.rollback().await?;
    Ok(StatusCode::CREATED)
}

async fn serializable(tx: Tx) -> Result<String, DbError> {
    let isolation = Some(IsolationLevel::Serializable);
    tx.start_with(TransactionOptions { isolation, ..TransactionOptions::default() }).await?;
    let show = Statement::from_string(DbBackend::Postgres, "SHOW transaction_isolation");
    let row = tx.query_one_raw(show).await?;
    Ok(row.unwrap().try_get_by_index(0)?)
}

async fn serve(lab: &Lab, kept: Arc<Mutex<Vec<Transaction>>>) -> App {
    // Keeps a nested one for longer than the request.
    let keep = async move |tx: Tx| -> Result<StatusCode, DbError> {
        let nested = tx.begin().await?;
        new_cake("kept for later").insert(&nested).await?;
        kept.lock().unwrap().push(nested);
        Ok(StatusCode::CREATED)
    };
    let app = Router::new()
        .route("/nested", post(nested))
        .route("/early", post(ended_early))
        .route("/back", post(rolled_back))
        .route("/serializable", post(serializable))
        .route("/keep", post(keep))
        .layer(EngineLayer::new(lab.engine.clone()));
    App::start(app, lab.engine.clone()).await
}

#[tokio::test]
async fn each_is_kept_or_undone_on_its_own_and_the_rest_is_the_layer_s() {
    let lab = alone("nested requests").start().await;
    let kept = Arc::default();
    let app = serve(&lab, Arc::clone(&kept)).await;
    let post = async |path: &str| {
        let request = reqwest::Client::new().post(format!("{}/{path}", app.url));
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(post("nested").await.0, 201);
    assert_eq!(stored(&lab).await, "outer,kept");
    assert_eq!(post("early").await.0, 418);
    assert_eq!(stored(&lab).await, "outer,kept,early");
    assert_eq!(post("back").await.0, 201);
    assert_eq!(post("serializable").await, (200, "serializable".to_owned()));

    // Nobody can tell whether it was meant to stay, so the client is told that nothing was stored.
    assert_eq!(post("keep").await.0, 500);
    let late = kept.lock().unwrap().pop().unwrap();
    new_cake("late").insert(&late).await.unwrap_err();
    late.commit().await.unwrap_err();
    assert_eq!(stored(&lab).await, "outer,kept,early");
    app.stop().await;
}
