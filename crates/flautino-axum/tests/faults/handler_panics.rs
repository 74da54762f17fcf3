//! A handler panics: its client is told 500, the pool is whole, and what it wrote is rolled back.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::{get, post};
use flautino::{Engine, TransactionOptions};
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_cluster::Node;
use flautino_lab::{App, Lab, ask, wait_until};
use futures_util::StreamExt;
use futures_util::future::join_all;

use crate::common::{ENTRIES, MAIN};

const MOST: i64 = 10;

async fn after_a_query(db: Db) -> Result<String, DbError> {
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&db).await?;
    panic!("after a query that answered {one}");
}

async fn amid_a_result(db: Db) -> Result<String, DbError> {
    let mut rows = sqlx::query("SELECT generate_series(1, 100000)").fetch(&*db);
    let first = rows.next().await;
    panic!("after the first row: {:?}", first.map(|row| row.is_ok()));
}

async fn in_tx(mut tx: Tx) -> Result<String, DbError> {
    sqlx::query("INSERT INTO entries VALUES (1)").execute(&mut tx).await?;
    panic!("in the request's transaction");
}

async fn in_a_transaction(db: Db) -> Result<String, DbError> {
    let mut tx = db.begin().await?;
    sqlx::query("INSERT INTO entries VALUES (2)").execute(&mut tx).await?;
    panic!("in a transaction of the handler");
}

async fn in_a_closure(db: Db) -> Result<String, DbError> {
    db.transaction(async move |tx| -> Result<String, sqlx::Error> {
        sqlx::query("INSERT INTO entries VALUES (3)").execute(tx).await?;
        panic!("in a closure");
    })
    .await
    .map_err(DbError)
}

/// A neighbour that does not panic.
async fn sleeps(db: Db, Path(ms): Path<u32>) -> Result<&'static str, DbError> {
    sqlx::query("SELECT pg_sleep($1::float8 / 1000)").bind(f64::from(ms)).execute(&db).await?;
    Ok("well")
}

async fn serve_panics(engine: &Engine) -> App {
    let app = Router::new()
        .route("/after", get(after_a_query))
        .route("/amid", get(amid_a_result))
        .route("/tx", post(in_tx))
        .route("/transaction", post(in_a_transaction))
        .route("/closure", post(in_a_closure))
        .route("/sleeps/{ms}", get(sleeps))
        .layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    wait_until("the app is ready", async || engine.is_ready()).await;
    app
}

/// The pool has all its connections, none of them in a transaction, and nothing was stored.
async fn is_whole(engine: &Engine, primary: &Node, name: &str) {
    wait_until("nothing is in flight and no transaction is open", async || {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE application_name = '{name}' AND state LIKE 'idle in transaction%'"
        );
        engine.status().nodes[0].in_flight == 0 && ask::<i64>(primary, &sql).await == 0
    })
    .await;
    let db = engine.handle().node(MAIN).unwrap();
    let leases = join_all((0..MOST).map(|_| db.acquire())).await;
    for lease in leases {
        let mut lease = lease.unwrap();
        sqlx::query("SELECT 1").execute(&mut lease).await.unwrap();
    }
    assert_eq!(ask::<i64>(primary, "SELECT count(*) FROM entries").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_is_whole_and_nothing_is_stored_after_many_panics() {
    let Lab { cluster, engine, .. } = Lab::named("panics").table(ENTRIES).start_closed().await;
    let app = serve_panics(&engine).await;
    let http = reqwest::Client::new();
    for _ in 0..10 {
        let url = |path: &str| format!("{}/{path}", app.url);
        let gets = ["after", "amid"].map(|path| http.get(url(path)).send());
        let posts = ["tx", "transaction", "closure"].map(|path| http.post(url(path)).send());
        // Whatever they are told, see below.
        let _ = tokio::join!(join_all(gets), join_all(posts));
    }
    is_whole(&engine, cluster.primary(), "panics").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_handler_panics_outside_of_a_transaction_is_told_500() {
    let Lab { cluster, engine, .. } = Lab::named("outside").table(ENTRIES).start_closed().await;
    let app = serve_panics(&engine).await;
    for path in ["after", "amid"] {
        let answer = reqwest::get(format!("{}/{path}", app.url)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{path}: no response: {error:?}"));
        assert_eq!(answer.status(), 500, "{path}");
    }
    is_whole(&engine, cluster.primary(), "outside").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_handler_panics_in_a_transaction_is_told_500() {
    let Lab { cluster, engine, .. } = Lab::named("inside").table(ENTRIES).start_closed().await;
    let app = serve_panics(&engine).await;
    let http = reqwest::Client::new();
    for path in ["tx", "transaction", "closure"] {
        let answer = http.post(format!("{}/{path}", app.url)).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{path}: no response: {error:?}"));
        assert_eq!(answer.status(), 500, "{path}");
    }
    is_whole(&engine, cluster.primary(), "inside").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_costs_no_other_request_on_the_same_http_2_connection() {
    let lab = Lab::named("neighbours").table(ENTRIES).start_closed().await;
    let app = serve_panics(&lab.engine).await;
    let http = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let neighbours = join_all((0..5).map(|_| http.get(format!("{}/sleeps/3000", app.url)).send()));
    let neighbours = tokio::spawn(neighbours);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'neighbours' \
               AND state = 'active' AND query LIKE '%pg_sleep%'";
    wait_until("they are served", async || ask::<i64>(lab.primary(), sql).await == 5).await;
    let told = http.get(format!("{}/after", app.url)).send().await;
    for answer in neighbours.await.unwrap() {
        let answer = answer.unwrap_or_else(|error| panic!("a neighbour was cut: {error:?}"));
        assert_eq!(answer.text().await.unwrap(), "well");
    }
    assert_eq!(told.unwrap().status(), 500);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_in_tasks_outside_of_http_leave_the_pool_whole_too() {
    let Lab { cluster, engine, .. } = Lab::named("tasks").table(ENTRIES).start().await;
    for n in 0..30 {
        let db = engine.handle();
        let task = tokio::spawn(async move {
            let options = TransactionOptions { retries: 3, ..TransactionOptions::default() };
            let done: Result<(), sqlx::Error> = db
                .transaction_with(options, async move |tx| {
                    sqlx::query("INSERT INTO entries VALUES (4)").execute(tx).await?;
                    assert!(n < 0, "on purpose");
                    Ok(())
                })
                .await;
            done
        });
        assert!(task.await.unwrap_err().is_panic());
    }
    is_whole(&engine, cluster.primary(), "tasks").await;
    let closed = engine.close().await;
    assert!(closed.elapsed < Duration::from_secs(2), "{closed:?}");
}
