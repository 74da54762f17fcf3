//! Two instances of one app over one cluster, and the app.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flautino::{Engine, EngineConfig, Handle};
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{App, catch_up, cluster, config, open, wait_until_or_tell};
use futures_util::FutureExt;

const UPSERT: &str = "INSERT INTO entries (key, value) VALUES ($1, $2) \
     ON CONFLICT (key) DO UPDATE SET value = excluded.value";

/// Writes a value under a key, as the handlers do.
pub(crate) async fn write(db: &Handle, key: &str, value: i64) -> Result<(), DbError> {
    sqlx::query(UPSERT).bind(key.to_owned()).bind(value).execute(db).await?;
    Ok(())
}

/// Reads a key's value; 0 where it has none.
pub(crate) async fn read(db: &Handle, key: &str) -> Result<i64, DbError> {
    let sql = "SELECT coalesce(max(value), 0) FROM entries WHERE key = $1";
    Ok(sqlx::query_scalar(sql).bind(key.to_owned()).fetch_one(db).await?)
}

async fn set(db: Db, Path((key, value)): Path<(String, i64)>) -> Result<(), DbError> {
    write(&db, &key, value).await
}

async fn value(db: Db, Path(key): Path<String>) -> Result<String, DbError> {
    Ok(read(&db, &key).await?.to_string())
}

async fn set_and_answer(
    db: Db,
    Path((key, value, status)): Path<(String, i64, u16)>,
) -> Result<StatusCode, DbError> {
    write(&db, &key, value).await?;
    Ok(StatusCode::from_u16(status).unwrap())
}

async fn set_in_transaction(
    mut tx: Tx,
    Path((key, value, status)): Path<(String, i64, u16)>,
) -> Result<StatusCode, DbError> {
    sqlx::query(UPSERT).bind(key).bind(value).execute(&mut tx).await?;
    Ok(StatusCode::from_u16(status).unwrap())
}

async fn refused(db: Db) -> Result<(), DbError> {
    sqlx::query("INSERT INTO entries (key, value) VALUES (NULL, 1)").execute(&db).await?;
    Ok(())
}

async fn set_and_panic(db: Db, Path((key, value)): Path<(String, i64)>) {
    write(&db, &key, value).await.unwrap();
    panic!("as the test wants it");
}

async fn idle(_: Db) -> &'static str {
    "asked nothing"
}

async fn catch_panic(request: Request, next: Next) -> Response {
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// The app without its layer.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/set/{key}/{value}", get(set))
        .route("/value/{key}", get(value))
        .route("/set-and-answer/{key}/{value}/{status}", get(set_and_answer))
        .route("/set-in-transaction/{key}/{value}/{status}", get(set_in_transaction))
        .route("/refused", get(refused))
        .route("/set-and-panic/{key}/{value}", get(set_and_panic))
        .route("/idle", get(idle))
        .layer(from_fn(catch_panic))
}

/// The app, with `Server-Timing`.
pub(crate) fn app(engine: &Engine) -> Router {
    let layer = EngineLayer::new(engine.clone()).server_timing(true);
    let status = flautino_axum::status_routes(engine.clone());
    routes().layer(layer).merge(status)
}

/// Two instances over one cluster with two replicas.
pub(crate) struct Pair {
    pub(crate) cluster: Cluster,
    pub(crate) engines: Vec<Engine>,
    apps: Vec<App>,
}

/// A cluster with two replicas, and the app's table on all of its nodes.
pub(crate) async fn prepared() -> Cluster {
    let cluster = cluster(2).await;
    let table = "CREATE TABLE entries (key text PRIMARY KEY, value bigint NOT NULL)";
    cluster.primary().execute(table).await.unwrap();
    catch_up(&cluster).await;
    cluster
}

pub(crate) fn replicas(cluster: &Cluster) -> [&Node; 2] {
    [cluster.replica(0), cluster.replica(1)]
}

/// An open engine that both replicas serve. Its servers have time to answer, since the token of a
/// write is a position only if the primary has said in time where it is.
pub(crate) async fn engine(cluster: &Cluster, edit: impl Fn(&mut EngineConfig)) -> Engine {
    let mut config = config(cluster, "tokens");
    config.routing.probe_timeout = Duration::from_secs(5);
    edit(&mut config);
    let engine = open(config).await;
    let both = async || {
        if both_serve(&engine).await {
            return true;
        }
        if engine.routing().probe_interval > Duration::from_secs(60) {
            // The only probe came before the replicas had everything.
            engine.close().await;
            catch_up(cluster).await;
            engine.open().await.unwrap();
        }
        false
    };
    wait_until_or_tell("both replicas serve", both, || format!("{:#?}", engine.status())).await;
    engine
}

async fn both_serve(engine: &Engine) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let db = engine.handle();
        sqlx::query("SELECT 1").execute(&db).await.unwrap();
        seen.extend(db.served_by());
    }
    seen.contains("read_replica_1") && seen.contains("read_replica_2")
}

impl Pair {
    pub(crate) async fn start(edit: impl Fn(&mut EngineConfig)) -> Self {
        let cluster = prepared().await;
        let mut engines = Vec::new();
        let mut apps = Vec::new();
        for _ in 0..2 {
            let engine = engine(&cluster, &edit).await;
            apps.push(App::start(app(&engine), engine.clone()).await);
            engines.push(engine);
        }
        Self { cluster, engines, apps }
    }

    /// The URL of a path at one of the two.
    pub(crate) fn url(&self, instance: usize, path: &str) -> String {
        format!("{}/{path}", self.apps[instance % 2].url)
    }

    pub(crate) async fn pause(&self) {
        for replica in replicas(&self.cluster) {
            replica.pause_replay().await.unwrap();
        }
    }

    pub(crate) async fn resume(&self) {
        for replica in replicas(&self.cluster) {
            replica.resume_replay().await.unwrap();
        }
    }

    /// Questions for a position that tokens needed, at both.
    pub(crate) fn token_probes(&self) -> u64 {
        let nodes = self.engines.iter().flat_map(|engine| engine.status().nodes);
        nodes.map(|node| node.token_probes).sum()
    }

    pub(crate) async fn stop(self) {
        for app in self.apps {
            app.stop().await;
        }
    }
}
