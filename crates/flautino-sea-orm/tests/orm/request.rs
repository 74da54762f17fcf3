//! `Db`, `Tx` and `DbError` in an app.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use flautino_axum::EngineLayer;
use flautino_lab::{App, Lab, pause_replay, resume_replay};
use flautino_sea_orm::{Db, DbError, Tx};
use sea_orm::{ActiveModelTrait, DbErr, EntityTrait, QueryOrder};

use crate::common::{alone, bake, cake, new_cake, stored, with_replica};

async fn list(db: Db) -> Result<Json<Vec<cake::Model>>, DbError> {
    let cakes = cake::Entity::find().order_by_asc(cake::Column::Id);
    Ok(Json(cakes.all(&db).await?))
}

async fn one(db: Db, Path(id): Path<i32>) -> Result<Json<cake::Model>, DbError> {
    let found = cake::Entity::find_by_id(id).one(&db).await?;
    found.map(Json).ok_or_else(|| DbErr::RecordNotFound(format!("cake {id}")).into())
}

async fn create(db: Db, Json(name): Json<String>) -> Result<StatusCode, DbError> {
    new_cake(&name).insert(&db).await?;
    Ok(StatusCode::CREATED)
}

/// Bakes all of them, and answers with the status.
async fn all(
    tx: Tx,
    Path(status): Path<u16>,
    Json(names): Json<Vec<String>>,
) -> Result<StatusCode, DbError> {
    for name in names {
        new_cake(&name).insert(&tx).await?;
    }
    Ok(StatusCode::from_u16(status).unwrap())
}

/// As `all`, by a closure, whose future has to be `Send`.
async fn by_closure(db: Db, Json(names): Json<Vec<String>>) -> Result<(), DbError> {
    db.transaction_async(async move |tx| -> Result<(), DbErr> {
        for name in names {
            new_cake(&name).insert(tx).await?;
        }
        Ok(())
    })
    .await?;
    Ok(())
}

async fn serve(lab: &Lab) -> App {
    let app = Router::new()
        .route("/", get(list).post(create))
        .route("/{id}", get(one))
        .route("/all/{status}", post(all))
        .route("/closure", post(by_closure))
        .layer(EngineLayer::new(lab.engine.clone()));
    App::start(app, lab.engine.clone()).await
}

async fn post_json(url: String, body: impl serde::Serialize) -> StatusCode {
    reqwest::Client::new().post(url).json(&body).send().await.unwrap().status()
}

#[tokio::test]
async fn a_client_sees_what_it_wrote_in_its_next_request() {
    let lab = with_replica("requests").frozen().start().await;
    flautino_lab::catch_up(&lab.cluster).await;
    pause_replay(&lab.cluster).await;
    let app = serve(&lab).await;
    let written = reqwest::Client::new().post(&app.url).json("lemon").send().await.unwrap();
    assert_eq!(written.status(), 201);
    let cookie = written.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap();
    let names = async |cookie: &str| {
        let request = reqwest::Client::new().get(&app.url).header("cookie", cookie);
        let cakes: Vec<serde_json::Value> = request.send().await.unwrap().json().await.unwrap();
        cakes.len()
    };
    assert_eq!(names(cookie).await, 1);
    assert_eq!(names("other=1").await, 0, "a replica that has not replayed it serves strangers");
    resume_replay(&lab.cluster).await;
    app.stop().await;
}

#[tokio::test]
async fn errors_are_responses_that_tell_nothing_of_the_database() {
    let lab = alone("errors").start().await;
    bake(&lab, &["lemon"]).await;
    let app = serve(&lab).await;
    let found = reqwest::get(format!("{}/1", app.url)).await.unwrap();
    assert_eq!(found.status(), 200);
    let missing = reqwest::get(format!("{}/2", app.url)).await.unwrap();
    assert_eq!(missing.status(), 404);
    let again = reqwest::Client::new().post(&app.url).json("lemon").send().await.unwrap();
    assert_eq!(again.status(), 409);
    let body = again.text().await.unwrap();
    assert!(!body.contains("cake") && !body.contains("lemon"), "{body}");
    assert_eq!(post_json(format!("{}/closure", app.url), ["a", "lemon"]).await, 409);
    assert_eq!(post_json(format!("{}/closure", app.url), ["a", "b"]).await, 200);
    assert_eq!(stored(&lab).await, "lemon,a,b");
    app.stop().await;
}

#[tokio::test]
async fn a_request_s_transaction_is_committed_on_success_and_rolled_back_on_an_error() {
    let lab = alone("tx").start().await;
    let app = serve(&lab).await;
    let url = |status: u16| format!("{}/all/{status}", app.url);
    assert_eq!(post_json(url(201), ["a", "b"]).await, 201);
    assert_eq!(post_json(url(422), ["c", "d"]).await, 422);
    assert_eq!(post_json(url(200), ["e", "a"]).await, 409);
    assert_eq!(stored(&lab).await, "a,b");
    app.stop().await;
}

#[tokio::test]
async fn without_the_layer_the_extractors_say_what_is_missing() {
    let app = Router::new().route("/db", get(list)).route("/tx/{status}", post(all));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async { axum::serve(listener, app).await });
    let db = reqwest::get(format!("{url}/db")).await.unwrap();
    let tx = reqwest::Client::new().post(format!("{url}/tx/200")).json(&[""; 0]).send().await;
    for response in [db, tx.unwrap()] {
        assert_eq!(response.status(), 500);
        assert!(response.text().await.unwrap().contains("EngineLayer is missing"));
    }
    served.abort();
}
