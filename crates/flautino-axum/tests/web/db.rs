//! `Db`: in handlers, in middleware, in tasks of their own, and beside each other.

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_lab::{App, Lab, cluster, engine};

/// The port of the server that answers, by its own word.
async fn port_of(db: &Db) -> Result<String, DbError> {
    let sql = "SELECT inet_server_port()::text";
    Ok(sqlx::query_scalar(sql).fetch_one(db).await?)
}

async fn in_handler(db: Db) -> Result<String, DbError> {
    port_of(&db).await
}

async fn in_task(db: Db) -> Result<String, DbError> {
    tokio::spawn(async move { port_of(&db).await }).await.unwrap()
}

async fn on_named_node(db: Db) -> Result<String, DbError> {
    port_of(&Db::from(db.node("read_replica_1")?)).await
}

async fn on_unknown_node(db: Db) -> Result<String, DbError> {
    port_of(&Db::from(db.node("elsewhere")?)).await
}

async fn both_at_once(one: Db, other: Db) -> Result<String, DbError> {
    let (one, other) = tokio::join!(port_of(&one), port_of(&other));
    Ok(format!("{} {}", one?, other?))
}

async fn with_header(db: Db, request: Request, next: Next) -> Result<Response, DbError> {
    let port = port_of(&Db::from(db.primary())).await?;
    let mut response = next.run(request).await;
    let value = HeaderValue::from_str(&port).unwrap();
    response.headers_mut().insert("x-port", value);
    Ok(response)
}

#[tokio::test]
async fn the_handle_works_in_handlers_middleware_and_tasks() {
    let cluster = cluster(1).await;
    let primary = cluster.primary().port().to_string();
    let replica = cluster.replica(0).port().to_string();
    let engine = engine(&cluster, "db").await;
    let app = Router::new()
        .route("/handler", get(in_handler))
        .route("/task", get(in_task))
        .route("/named", get(on_named_node))
        .route("/unknown", get(on_unknown_node))
        .route("/both", get(both_at_once))
        .layer(from_fn(with_header))
        .layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine).await;
    let ask = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", app.url)).await.unwrap();
        let port = answer.headers()["x-port"].to_str().unwrap().to_owned();
        assert_eq!(port, primary);
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    // A read: a replica serves it.
    assert_eq!(ask("/handler").await, (200, replica.clone()));
    assert_eq!(ask("/task").await, (200, replica.clone()));
    assert_eq!(ask("/named").await, (200, replica.clone()));
    let both = format!("{replica} {replica}");
    assert_eq!(ask("/both").await, (200, both));
    // The app's own mistake, not the client's: nothing of it in the answer.
    let (status, body) = ask("/unknown").await;
    assert_eq!(status, 500);
    assert!(!body.contains("elsewhere") && body.contains("could not be served"), "{body}");
    app.stop().await;
}

#[tokio::test]
async fn requests_share_the_pool_and_wait_for_their_turn() {
    let lab = Lab::named("db").connections(2).start_closed().await;
    let pid = async |db: Db| -> Result<String, DbError> {
        let sql = "SELECT pg_backend_pid()::text FROM pg_sleep(0.01)";
        Ok(sqlx::query_scalar(sql).fetch_one(&db).await?)
    };
    let app = Router::new().route("/", get(pid)).layer(EngineLayer::new(lab.engine.clone()));
    let app = App::start(app, lab.engine).await;
    let answers = (0..50).map(|_| async {
        let answer = reqwest::get(&app.url).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    });
    let mut pids = futures_util::future::join_all(answers).await;
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 2, "{pids:?}");
    app.stop().await;
}
