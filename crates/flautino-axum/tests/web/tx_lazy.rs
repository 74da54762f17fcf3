//! What `Tx` sends, and when.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use flautino::{IsolationLevel, TransactionOptions};
use flautino_axum::{DbError, EngineLayer, Tx};
use flautino_lab::{Capture, Lab};

use crate::common::{NOTES, serve_plainly, titles};

const INSERT: &str = "INSERT INTO notes (title) VALUES ('a')";

async fn unused(_: Tx) -> &'static str {
    "unused"
}

async fn used(mut tx: Tx) -> Result<StatusCode, DbError> {
    sqlx::query(INSERT).execute(&mut tx).await?;
    Ok(StatusCode::CREATED)
}

async fn refused(mut tx: Tx) -> Result<StatusCode, DbError> {
    sqlx::query(INSERT).execute(&mut tx).await?;
    Ok(StatusCode::FORBIDDEN)
}

async fn with_options(mut tx: Tx) -> Result<String, DbError> {
    let options = TransactionOptions {
        isolation: Some(IsolationLevel::Serializable),
        read_only: true,
        ..TransactionOptions::default()
    };
    tx.begin_with(options).await?;
    let sql = "SHOW transaction_isolation";
    Ok(sqlx::query_scalar(sql).fetch_one(&mut tx).await?)
}

async fn unused_but_ended(tx: Tx) -> Result<(), DbError> {
    Ok(tx.commit().await?)
}

#[tokio::test]
async fn the_transaction_begins_with_the_first_statement_and_ends_with_the_response() {
    // A connection that is pinged before it is lent would be logged too.
    let Lab { cluster, engine, .. } = Lab::named("lazy")
        .table(NOTES)
        .always_warm()
        .config(|config| config.log_queries = true)
        .start()
        .await;
    let app = Router::new()
        .route("/unused", get(unused))
        .route("/ended", get(unused_but_ended))
        .route("/used", get(used))
        .route("/refused", get(refused))
        .route("/options", get(with_options))
        .layer(EngineLayer::new(engine.clone()));
    let url = serve_plainly(app).await;
    let log = Capture::start();
    let sent = async |path: &str| {
        let before = log.of("flautino::query").len();
        let answer = reqwest::get(format!("{url}/{path}")).await.unwrap();
        let status = answer.status().as_u16();
        let events = log.of("flautino::query").split_off(before);
        let sending = events.iter().filter(|e| e.field("message") == "sending");
        let sql: Vec<_> = sending.map(|e| e.field("sql").to_owned()).collect();
        (status, sql.join("; "))
    };
    assert_eq!(sent("unused").await, (200, String::new()));
    assert_eq!(sent("ended").await, (200, String::new()));
    let expected = format!("BEGIN; {INSERT}; COMMIT");
    assert_eq!(sent("used").await, (201, expected));
    // The session forgets which values of sequences the request before got.
    let forget = "BEGIN; DISCARD SEQUENCES; COMMIT; ";
    let expected = format!("{forget}BEGIN; {INSERT}; ROLLBACK");
    assert_eq!(sent("refused").await, (403, expected));
    let begin = "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY";
    let expected = format!("{forget}{begin}; SHOW transaction_isolation; COMMIT");
    assert_eq!(sent("options").await, (200, expected));
    assert_eq!(titles(cluster.primary()).await, ["a"]);
    engine.close().await;
}
