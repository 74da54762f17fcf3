//! The app's routes: with the source as axum's state, through flautino's layer, and through that of
//! axum-sqlx-tx. The handlers do the same in all.

use std::fmt::Write;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::routing::{get, post};
use flautino::Engine;
use flautino_axum::{Db, EngineLayer, Tx};
use sqlx::{PgPool, Postgres};

use super::source::{self, Source};
use super::statements;
use crate::error::BoxError;
use crate::load::http::SERVED_BY;

const ROW: &str = "/rows/{id}";
const THREE: &str = "/three/{id}";
const LIST: &str = "/list/{id}";
/// As [`ROW`], and the response says which node has served it, where there are several.
const LOCATED: &str = "/located/{id}";
const TRANSACTION: &str = "/tx/{id}";
const SLEEP: &str = "/sleep";

type Answer = Result<String, (StatusCode, String)>;

/// The routes of all variants that have no layer of their own.
pub(super) fn over<S: Source>(source: S) -> Router {
    async fn row<S: Source>(State(source): State<S>, Path(id): Path<i32>) -> Answer {
        shown(source.read(id).await)
    }
    async fn three<S: Source>(State(source): State<S>, Path(id): Path<i32>) -> Answer {
        shown(source.three(id).await)
    }
    async fn list<S: Source>(State(source): State<S>, Path(from): Path<i32>) -> Answer {
        listed(source.list(from).await)
    }
    async fn write<S: Source>(State(source): State<S>, Path(id): Path<i32>) -> Answer {
        done(source.write(id).await)
    }
    async fn transact<S: Source>(State(source): State<S>, Path(id): Path<i32>) -> Answer {
        done(source.transact(id).await)
    }
    async fn sleep<S: Source>(State(source): State<S>) -> Answer {
        done(source.sleep().await)
    }
    Router::new()
        .route(ROW, get(row::<S>).post(write::<S>))
        .route(THREE, get(three::<S>))
        .route(LIST, get(list::<S>))
        .route(LOCATED, get(row::<S>))
        .route(TRANSACTION, post(transact::<S>))
        .route(SLEEP, get(sleep::<S>))
        .with_state(source)
}

/// The same, as an app of flautino's has it.
pub(super) fn through_layer(engine: Engine) -> Router {
    async fn row(db: Db, Path(id): Path<i32>) -> Answer {
        shown(statements::read(&db, id).await)
    }
    async fn three(db: Db, Path(id): Path<i32>) -> Answer {
        let mut sum = 0;
        for id in statements::three(id) {
            sum += statements::read(&db, id).await.map_err(failed)?;
        }
        shown(Ok(sum))
    }
    async fn list(db: Db, Path(from): Path<i32>) -> Answer {
        listed(statements::list(&db, from).await)
    }
    async fn located(
        db: Db,
        Path(id): Path<i32>,
    ) -> Result<(HeaderMap, String), (StatusCode, String)> {
        let text = shown(statements::read(&db, id).await)?;
        let node = db.served_by().and_then(|node| HeaderValue::from_str(&node).ok());
        let node = node.map(|node| (HeaderName::from_static(SERVED_BY), node));
        Ok((node.into_iter().collect(), text))
    }
    async fn write(db: Db, Path(id): Path<i32>) -> Answer {
        done(statements::write(&db, id).await)
    }
    async fn transact(mut tx: Tx, Path(id): Path<i32>) -> Answer {
        let n = statements::read(&mut tx, id).await.map_err(failed)?;
        statements::write(&mut tx, id).await.map_err(failed)?;
        done(statements::store(&mut tx, id, n).await)
    }
    async fn sleep(db: Db) -> Answer {
        done(statements::sleep(&db).await)
    }
    Router::new()
        .route(ROW, get(row).post(write))
        .route(THREE, get(three))
        .route(LIST, get(list))
        .route(LOCATED, get(located))
        .route(TRANSACTION, post(transact))
        .route(SLEEP, get(sleep))
        .layer(EngineLayer::new(engine))
}

/// The transaction alone, through the layer of axum-sqlx-tx, which is for nothing else.
pub(super) fn through_axum_sqlx_tx(pool: PgPool) -> Router {
    async fn transact(mut tx: axum_sqlx_tx::Tx<Postgres>, Path(id): Path<i32>) -> Answer {
        done(source::steps(&mut tx, id).await)
    }
    let (state, layer) = axum_sqlx_tx::Tx::<Postgres>::setup(pool);
    Router::new().route(TRANSACTION, post(transact)).layer(layer).with_state(state)
}

fn shown(read: Result<i32, BoxError>) -> Answer {
    read.map(|n| n.to_string()).map_err(failed)
}

fn listed(rows: Result<Vec<(i32, i32)>, BoxError>) -> Answer {
    let mut text = String::new();
    for (id, n) in rows.map_err(failed)? {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{id} {n}");
    }
    Ok(text)
}

fn done(done: Result<(), BoxError>) -> Answer {
    done.map(|()| "done".to_owned()).map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "the end of a result")]
fn failed(failure: BoxError) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, failure.to_string())
}
