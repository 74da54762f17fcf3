//! Who waits for a connection while it holds the last one is told so.

use std::time::Duration;

use flautino::{AcquireStep, Error, Handle};
use flautino_lab::{Lab, wait_until};
use futures_util::StreamExt;

const HOLDS: &str = "the handle that asked and its clones hold 1 of them";

async fn start(name: &str) -> Lab {
    Lab::named(name)
        .one_connection()
        .config(|config| config.pool.acquire_timeout = Duration::from_secs(1))
        .start()
        .await
}

fn is_timeout(err: &sqlx::Error) -> bool {
    let step = AcquireStep::WaitingForSlot;
    matches!(Error::of(err), Some(Error::AcquireTimeout { step: is, in_use: 1, max: 1, .. }) if *is == step)
}

/// What the handle says of its next statement, which gets no connection.
async fn refusal(db: &Handle) -> String {
    let err = sqlx::query("SELECT 1").execute(db).await.unwrap_err();
    assert!(is_timeout(&err), "{err:?}");
    err.to_string()
}

#[tokio::test]
async fn a_transaction_inside_of_another_is_told_to_be_a_savepoint() {
    let lab = start("nested").await;
    for inner in [lab.db.clone(), lab.db.primary(), lab.db.node("main").unwrap()] {
        let nested = lab.db.transaction(async move |_| {
            inner.transaction(async |tx| sqlx::query("SELECT 1").execute(tx).await).await
        });
        let err: sqlx::Error = nested.await.unwrap_err();
        assert!(is_timeout(&err), "{err:?}");
        let text = err.to_string();
        assert!(text.contains(HOLDS) && text.contains("savepoints (`tx.begin()`)"), "{text}");
        assert!(!text.contains("server is up"), "{text}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_statement_beside_a_lease_or_an_open_stream_of_its_own_is_told_so_too() {
    let lab = start("beside").await;
    let lease = lab.db.acquire().await.unwrap();
    assert!(refusal(&lab.db).await.contains(HOLDS));
    drop(lease);
    let mut rows = sqlx::query("SELECT generate_series(1, 20000)").fetch(&lab.db);
    rows.next().await.unwrap().unwrap();
    assert!(refusal(&lab.db).await.contains(HOLDS));
    drop(rows);
    wait_until("the stream's connection is back", async || lab.pool().in_use == 0).await;
    let own = lab.db.acquire().await.unwrap().detach();
    sqlx::query("SELECT 1").execute(&lab.db).await.unwrap();
    drop(own);
    lab.engine.close().await;
}

#[tokio::test]
async fn another_session_s_connections_are_not_called_its_own() {
    let lab = start("other").await;
    // What it held before does not count.
    drop(lab.db.begin().await.unwrap());
    let held = lab.engine.handle().begin().await.unwrap();
    let text = refusal(&lab.db).await;
    assert!(!text.contains("the handle that asked"), "{text}");
    assert!(!text.contains("server is up"), "{text}");
    drop(held);
    lab.engine.close().await;
}
