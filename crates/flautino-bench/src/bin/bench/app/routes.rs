//! The app's two routes: with the source as axum's state, and through flautino's layer.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, EngineLayer};

use super::source::{self, Source};
use crate::error::BoxError;

const ROW: &str = "/rows/{id}";
const SLEEP: &str = "/sleep";

type Answer = Result<String, (StatusCode, String)>;

/// The routes of all variants but flautino's.
pub(super) fn over<S: Source>(source: S) -> Router {
    async fn row<S: Source>(State(source): State<S>, Path(id): Path<i32>) -> Answer {
        shown(source.read(id).await)
    }
    async fn sleep<S: Source>(State(source): State<S>) -> Answer {
        slept(source.sleep().await)
    }
    Router::new().route(ROW, get(row::<S>)).route(SLEEP, get(sleep::<S>)).with_state(source)
}

/// The same, as an app of flautino's has it.
pub(super) fn through_layer(engine: Engine) -> Router {
    async fn row(db: Db, Path(id): Path<i32>) -> Answer {
        shown(source::read(&db, id).await)
    }
    async fn sleep(db: Db) -> Answer {
        slept(source::sleep(&db).await)
    }
    Router::new().route(ROW, get(row)).route(SLEEP, get(sleep)).layer(EngineLayer::new(engine))
}

fn shown(read: Result<i32, BoxError>) -> Answer {
    read.map(|n| n.to_string()).map_err(failed)
}

fn slept(slept: Result<(), BoxError>) -> Answer {
    slept.map(|()| "slept".to_owned()).map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "the end of a result")]
fn failed(failure: BoxError) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, failure.to_string())
}
