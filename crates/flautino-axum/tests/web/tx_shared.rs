//! One transaction for the whole request, however often it is extracted; and ends of its own.

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_lab::{App, Lab};

use crate::common::{NOTES, titles};

async fn insert(tx: &mut Tx, title: &'static str) -> Result<String, DbError> {
    let sql = "INSERT INTO notes (title) VALUES ($1) RETURNING pg_current_xact_id()::text";
    Ok(sqlx::query_scalar(sql).bind(title).fetch_one(tx).await?)
}

/// Inserts before the handler runs, and tells the transaction's id.
async fn journal(mut tx: Tx, request: Request, next: Next) -> Result<Response, DbError> {
    let id = insert(&mut tx, "middleware").await?;
    drop(tx);
    let mut response = next.run(request).await;
    response.headers_mut().insert("x-id", id.parse().unwrap());
    Ok(response)
}

/// Holds on to the transaction while the handler runs.
async fn greedy(tx: Tx, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    drop(tx);
    response
}

async fn handler(mut tx: Tx) -> Result<String, DbError> {
    insert(&mut tx, "handler").await
}

async fn failing(mut tx: Tx) -> Result<StatusCode, DbError> {
    insert(&mut tx, "failing").await?;
    Ok(StatusCode::CONFLICT)
}

async fn committed(mut tx: Tx) -> Result<StatusCode, DbError> {
    insert(&mut tx, "committed").await?;
    tx.commit().await?;
    Ok(StatusCode::BAD_REQUEST)
}

async fn rolled_back(mut tx: Tx) -> Result<StatusCode, DbError> {
    insert(&mut tx, "rolled back").await?;
    tx.rollback().await?;
    Ok(StatusCode::OK)
}

/// What `Db` does beside it is no part of the transaction.
async fn beside(mut tx: Tx, db: Db) -> Result<StatusCode, DbError> {
    insert(&mut tx, "inside").await?;
    let insert = sqlx::query("INSERT INTO notes (title) VALUES ('beside')");
    insert.execute(&db).await?;
    Ok(StatusCode::BAD_REQUEST)
}

async fn twice(_: Tx, _: Tx) -> &'static str {
    "never"
}

#[tokio::test]
async fn a_request_has_one_transaction_and_ends_it_once() {
    let Lab { cluster, engine, .. } = Lab::named("shared").table(NOTES).start().await;
    let app = Router::new()
        .route("/shared", get(handler))
        .route("/shared/failing", get(failing))
        .layer(from_fn(journal))
        .route("/committed", get(committed))
        .route("/rolled-back", get(rolled_back))
        .route("/beside", get(beside))
        .route("/twice", get(twice))
        .route("/greedy", get(handler).layer(from_fn(greedy)))
        .layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    let get = async |path: &str| reqwest::get(format!("{}/{path}", app.url)).await.unwrap();
    let stored = async || {
        let titles = titles(cluster.primary()).await;
        cluster.primary().execute("TRUNCATE notes").await.unwrap();
        titles
    };

    let answer = get("shared").await;
    assert_eq!(answer.status(), 200);
    let of_middleware = answer.headers()["x-id"].to_str().unwrap().to_owned();
    assert_eq!(answer.text().await.unwrap(), of_middleware);
    assert_eq!(stored().await, ["middleware", "handler"]);
    assert_eq!(get("shared/failing").await.status(), 409);
    assert_eq!(stored().await, [""; 0]);

    assert_eq!(get("committed").await.status(), 400);
    assert_eq!(stored().await, ["committed"]);
    assert_eq!(get("rolled-back").await.status(), 200);
    assert_eq!(stored().await, [""; 0]);
    assert_eq!(get("beside").await.status(), 400);
    assert_eq!(stored().await, ["beside"]);

    for path in ["twice", "greedy"] {
        let answer = get(path).await;
        assert_eq!(answer.status(), 500, "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("extract `Tx` once"), "{path}: {text}");
        assert_eq!(stored().await, [""; 0], "{path}");
    }
    assert_eq!(engine.status().nodes[0].in_flight, 0);
    app.stop().await;
}
