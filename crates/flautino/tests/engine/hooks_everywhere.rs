//! The same hooks hold whichever way a connection is had.

use std::sync::atomic::{AtomicU32, Ordering};

use flautino_lab::{Lab, polled_at_most, wait_until};
use sqlx::{Acquire, PgConnection};

const GREETING: &str = "SELECT coalesce(current_setting('app.greeting', true), '')";

#[derive(Debug, Default)]
struct Runs {
    connected: AtomicU32,
    acquired: AtomicU32,
    released: AtomicU32,
}

static RUNS: Runs =
    Runs { connected: AtomicU32::new(0), acquired: AtomicU32::new(0), released: AtomicU32::new(0) };

fn acquired() -> u32 {
    RUNS.acquired.load(Ordering::SeqCst)
}

async fn until_released(count: u32) {
    let released = || RUNS.released.load(Ordering::SeqCst);
    wait_until("after_release ran", async || released() >= count).await;
}

async fn connected(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    RUNS.connected.fetch_add(1, Ordering::SeqCst);
    sqlx::query("SET app.greeting = 'hello'").execute(connection).await.map(drop)
}

async fn greets(connection: &mut PgConnection) {
    let greeting: String = sqlx::query_scalar(GREETING).fetch_one(connection).await.unwrap();
    assert_eq!(greeting, "hello");
}

/// One test, since it counts.
#[tokio::test]
async fn before_open_and_on_handles_leases_transactions_and_sqlx_s_pool() {
    let lab = Lab::named("everywhere")
        .behind_proxy()
        .connections(2)
        .always_warm()
        .config(|config| config.pool.sqlx_connections = 1)
        .engine(|engine| {
            engine
                .after_connect(async |connection: &mut PgConnection| -> Result<(), sqlx::Error> {
                    connected(connection).await
                })
                .before_acquire(async |_: &mut PgConnection| -> Result<bool, sqlx::Error> {
                    RUNS.acquired.fetch_add(1, Ordering::SeqCst);
                    Ok(true)
                })
                .after_release(async |_: &mut PgConnection| -> Result<bool, sqlx::Error> {
                    RUNS.released.fetch_add(1, Ordering::SeqCst);
                    Ok(true)
                })
        })
        .start_closed()
        .await;
    let db = &lab.db;

    // Before open each connection is new.
    for round in 1..=2 {
        let greeting: String = sqlx::query_scalar(GREETING).fetch_one(db).await.unwrap();
        assert_eq!(greeting, "hello");
        assert_eq!((RUNS.connected.load(Ordering::SeqCst), acquired()), (round, round));
    }
    greets(&mut db.acquire().await.unwrap()).await;
    let mut tx = db.begin().await.unwrap();
    greets(&mut tx).await;
    tx.commit().await.unwrap();
    assert_eq!((RUNS.connected.load(Ordering::SeqCst), acquired()), (4, 4));

    lab.engine.open().await.unwrap();
    let (lent_before, released_before) = (acquired(), RUNS.released.load(Ordering::SeqCst));
    let greeting: String = sqlx::query_scalar(GREETING).fetch_one(db).await.unwrap();
    assert_eq!(greeting, "hello");
    assert_eq!(acquired(), lent_before + 1);
    until_released(released_before + 1).await;
    greets(&mut db.acquire().await.unwrap()).await;
    assert_eq!(acquired(), lent_before + 2);
    until_released(released_before + 2).await;
    let mut tx = db.begin().await.unwrap();
    greets(&mut tx).await;
    tx.commit().await.unwrap();
    assert_eq!(acquired(), lent_before + 3);
    until_released(released_before + 3).await;
    // As code that is generic over sqlx does.
    let mut tx = Acquire::begin(db).await.unwrap();
    greets(&mut tx).await;
    tx.commit().await.unwrap();
    // And dropped before it was lent, or just then.
    for polls in 0..5 {
        drop(polled_at_most(polls, db.acquire()).await);
    }

    let pool = lab.engine.pool("main").unwrap();
    for _ in 0..3 {
        let then = acquired();
        let mut connection = pool.acquire().await.unwrap();
        greets(&mut connection).await;
        sqlx::query("SET app.greeting = 'bye'").execute(&mut *connection).await.unwrap();
        // sqlx runs it for a connection that rested, and not for a new one.
        assert!(acquired() <= then + 1, "{} times", acquired() - then);
        let then = RUNS.released.load(Ordering::SeqCst);
        drop(connection);
        until_released(then + 1).await;
    }
    lab.engine.close().await;
}
