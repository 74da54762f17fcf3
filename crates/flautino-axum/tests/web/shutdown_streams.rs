//! A response that is still being written when the signal comes: it is written to its end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, EngineLayer};
use flautino_lab::{App, Lab, sessions_of, wait_until};
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;

use crate::common::SOON;

/// Three lines, each from the database, the last two when the test says so.
fn lines(db: Db, go: Arc<Notify>) -> Response {
    let lines = stream::iter(0..3).then(move |n: i32| {
        let (db, go) = (db.clone(), Arc::clone(&go));
        async move {
            if n > 0 {
                go.notified().await;
            }
            let line = sqlx::query_scalar::<_, String>("SELECT 'line ' || $1::int4 || E'\\n'");
            line.bind(n).fetch_one(&db).await
        }
    });
    Response::new(Body::from_stream(lines))
}

fn app(engine: &Engine, go: &Arc<Notify>) -> Router {
    let go = Arc::clone(go);
    Router::new()
        .route("/", get(async move |db: Db| lines(db, go)))
        .layer(EngineLayer::new(engine.clone()))
}

#[tokio::test]
async fn a_stream_under_way_goes_on_querying_until_its_end() {
    let lab = Lab::named("streams").start_closed().await;
    let go = Arc::new(Notify::new());
    let mut app = App::start(app(&lab.engine, &go), lab.engine.clone()).await;
    let mut answer = reqwest::get(&app.url).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "line 0\n");
    app.signal();
    wait_until("it drains", async || !lab.engine.is_ready()).await;
    for line in ["line 1\n", "line 2\n"] {
        go.notify_one();
        assert_eq!(answer.chunk().await.unwrap().unwrap(), line);
    }
    assert_eq!(answer.chunk().await.unwrap(), None);
    let report = app.stop().await;
    assert_eq!(report.connections_drained, 1, "{report:?}");
    assert_eq!(report.connections_cut, 0, "{report:?}");
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_time_is_cut_and_shows_it() {
    let Lab { cluster, engine, .. } = Lab::named("streams").start_closed().await;
    let go = Arc::new(Notify::new());
    let drain = Duration::from_millis(300);
    let app = App::start_with_drain(app(&engine, &go), engine.clone(), drain).await;
    let mut answer = reqwest::get(&app.url).await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "line 0\n");
    let report = app.stop().await;
    assert_eq!(report.connections_cut, 1, "{report:?}");
    // Its head was sent, so it waits for no response.
    assert_eq!(report.requests_cut, 0, "{report:?}");
    assert!(report.elapsed < drain + Duration::from_secs(5), "{report:?}");
    // A client must not take what it has for the whole.
    answer.chunk().await.unwrap_err();
    let gone = wait_until("no session is left", async || {
        sessions_of(cluster.primary(), "streams").await == 0
    });
    assert!(gone.await < SOON);
}
