//! What sqlx's users write in handlers, with all of sqlx's traits imported.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_lab::{App, Lab};
use futures_util::StreamExt;
use sqlx::{Acquire, Connection, Executor, PgConnection, Postgres};

use crate::common::{NOTES, serve_plainly, titles};

async fn insert(connection: &mut PgConnection, title: &str) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO notes (title) VALUES ($1)").bind(title);
    insert.execute(connection).await.map(drop)
}

#[allow(clippy::manual_async_fn, reason = "sqlx's documentation of `Acquire` says why")]
fn insert_through<'a, 'c, A>(
    database: A,
    title: &'a str,
) -> impl Future<Output = Result<(), sqlx::Error>> + Send + 'a
where
    A: Acquire<'c, Database = Postgres> + Send + 'a,
    'c: 'a,
{
    async move {
        let mut connection = database.acquire().await?;
        insert(&mut connection, title).await
    }
}

#[allow(clippy::manual_async_fn, reason = "sqlx's documentation of `Acquire` says why")]
fn insert_in_one<'a, 'c, A>(
    database: A,
    title: &'a str,
) -> impl Future<Output = Result<(), sqlx::Error>> + Send + 'a
where
    A: Acquire<'c, Database = Postgres> + Send + 'a,
    'c: 'a,
{
    async move {
        let mut tx = database.begin().await?;
        insert(&mut tx, title).await?;
        tx.commit().await
    }
}

async fn through_db(db: Db) -> Result<String, DbError> {
    db.execute("INSERT INTO notes (title) VALUES ('method')").await?;
    db.execute("INSERT INTO notes (title) VALUES ('again')").await?;
    let rows = db.fetch("SELECT title FROM notes").count().await;
    insert_through(&db, "acquired").await?;
    insert_in_one(&db, "in one").await?;
    db.acquire().await?.ping().await?;
    let mut tx = db.begin().await?;
    insert(&mut tx, "rolled back").await?;
    tx.rollback().await?;
    Ok(rows.to_string())
}

async fn through_tx(mut tx: Tx) -> Result<StatusCode, DbError> {
    insert_through(&mut tx, "acquired").await?;
    insert_in_one(&mut tx, "in one").await?;
    insert(tx.connection().await?, "bare").await?;
    tx.execute("INSERT INTO notes (title) VALUES ('method')").await?;
    let mut nested = tx.begin().await?.begin().await?;
    insert(&mut nested, "undone").await?;
    nested.execute("SELECT nothing").await.unwrap_err();
    nested.rollback().await?;
    insert(tx.begin().await?, "last").await?;
    Ok(StatusCode::CREATED)
}

async fn fails_unseen(mut tx: Tx) -> Result<StatusCode, DbError> {
    insert(tx.connection().await?, "lost").await?;
    let _ = tx.connection().await?.execute("SELECT nothing").await;
    Ok(StatusCode::CREATED)
}

#[tokio::test]
async fn db_and_tx_are_used_as_a_pool_and_a_transaction_are() {
    let Lab { cluster, engine, .. } = Lab::named("as_with_sqlx").table(NOTES).start().await;
    let app = Router::new()
        .route("/db", post(through_db))
        .route("/tx", post(through_tx))
        .route("/unseen", post(fails_unseen))
        .layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine).await;
    let ask = async |path: &str| {
        let request = reqwest::Client::new().post(format!("{}/{path}", app.url));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(ask("db").await, (200, "2".to_owned()));
    let stored = ["method", "again", "acquired", "in one"];
    assert_eq!(titles(cluster.primary()).await, stored);
    assert_eq!(ask("tx").await.0, 201);
    let more = ["acquired", "in one", "bare", "method", "last"];
    assert_eq!(titles(cluster.primary()).await, [stored.as_slice(), &more].concat());
    // Never a success over what was not committed, whoever ran the statement.
    assert_eq!(ask("unseen").await.0, 500);
    assert_eq!(titles(cluster.primary()).await.len(), 9);
    app.stop().await;
}

async fn optional(db: Option<Db>, tx: Option<Tx>) -> Result<String, DbError> {
    let Some(mut tx) = tx else { return Ok(format!("no layer: {}", db.is_none())) };
    tx.execute("INSERT INTO notes (title) VALUES ('optional')").await?;
    Ok(format!("both: {}", db.is_some()))
}

#[tokio::test]
async fn optional_extractors_are_none_without_the_layer_and_only_then() {
    let text = async |url: String| {
        let answer = reqwest::get(url).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let bare = serve_plainly(Router::new().route("/", get(optional))).await;
    assert_eq!(text(bare).await, (200, "no layer: true".to_owned()));

    let Lab { cluster, engine, .. } = Lab::named("optional").table(NOTES).start().await;
    let twice = async |_: Tx, second: Option<Tx>| format!("absent: {}", second.is_none());
    let app = Router::new()
        .route("/", get(optional))
        .route("/twice", get(twice))
        .layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    assert_eq!(text(app.url.clone()).await, (200, "both: true".to_owned()));
    assert_eq!(titles(cluster.primary()).await, ["optional"]);
    // Somebody else holds it, so a `None` would have its user go on without a transaction.
    let (status, said) = text(format!("{}/twice", app.url)).await;
    assert_eq!(status, 500);
    assert!(said.contains("already extracted"), "{said}");
    // One that cannot begin is an error of its first statement.
    engine.close().await;
    assert_eq!(text(app.url.clone()).await.0, 503);
    app.stop().await;
}
