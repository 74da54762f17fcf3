//! The layer over services that know nothing of axum.

use std::convert::Infallible;
use std::io;

use axum::http::request::Parts;
use axum::http::{Request, Response};
use flautino_axum::{Db, EngineLayer, Tx};
use flautino_lab::Lab;
use tower::{Layer, ServiceExt, service_fn};

use crate::common::{NOTES, titles};

/// A body of the test's own, neither axum's nor hyper's.
#[derive(Debug, Default, PartialEq)]
struct Frames(Vec<u8>);

#[tokio::test]
async fn any_service_over_http_requests_has_the_handle() {
    let lab = Lab::named("tower").start().await;
    let service = service_fn(async |request: Request<u8>| {
        let (mut parts, body) = request.into_parts();
        let db = Db::from_request_parts(&mut parts, &()).await.unwrap();
        let sql = "SELECT 'body ' || $1::int4";
        let text: String =
            sqlx::query_scalar(sql).bind(i32::from(body)).fetch_one(&db).await.unwrap();
        Ok::<_, Infallible>(Response::new(Frames(text.into_bytes())))
    });
    let service = EngineLayer::new(lab.engine.clone()).server_timing(true).layer(service);
    let response = service.oneshot(Request::new(7)).await.unwrap();
    assert!(!response.headers()["server-timing"].is_empty());
    assert_eq!(response.into_body(), Frames(b"body 7".to_vec()));
    lab.engine.close().await;
}

/// Inserts through the request's transaction, and gives that out.
async fn insert(mut parts: Parts, title: &str) -> Tx {
    let mut tx = Tx::from_request_parts(&mut parts, &()).await.unwrap();
    let insert = sqlx::query("INSERT INTO notes (title) VALUES ($1)").bind(title);
    insert.execute(&mut tx).await.unwrap();
    tx
}

#[tokio::test]
async fn a_service_s_error_passes_through_and_rolls_back() {
    let Lab { cluster, engine, .. } = Lab::named("tower").table(NOTES).start().await;
    let service = service_fn(async |request: Request<()>| {
        drop(insert(request.into_parts().0, "lost").await);
        Err::<Response<Frames>, _>(io::Error::other("no answer"))
    });
    let service = EngineLayer::new(engine.clone()).layer(service);
    let error = service.oneshot(Request::new(())).await.unwrap_err();
    assert_eq!(error.to_string(), "no answer");
    assert_eq!(titles(cluster.primary()).await, [""; 0]);
    engine.close().await;
}

#[tokio::test]
async fn a_commit_that_fails_is_a_500_with_the_body_s_default() {
    let Lab { cluster, engine, .. } = Lab::named("tower").table(NOTES).start().await;
    let service = service_fn(async |request: Request<()>| {
        let mut tx = insert(request.into_parts().0, "lost").await;
        sqlx::query("nonsense").execute(&mut tx).await.unwrap_err();
        Ok::<_, Infallible>(Response::new(Frames(b"stored".to_vec())))
    });
    let service = EngineLayer::new(engine.clone()).layer(service);
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(response.into_body(), Frames::default());
    assert_eq!(titles(cluster.primary()).await, [""; 0]);
    engine.close().await;
}
