//! A statement that goes on although it was cancelled: its process is ended, and replaced.

use std::time::Duration;

use flautino_lab::{Proxied, has_session, pid, sessions_of, until_running, wait_until};

/// Goes on for a minute, whoever cancels it.
const STUBBORN: &str = "CREATE FUNCTION stubborn() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE until timestamptz := clock_timestamp() + '60 s';
    BEGIN
        WHILE clock_timestamp() < until LOOP
            BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;
        END LOOP;
    END $$";
const CALL: &str = "SELECT stubborn()";
/// A second or two were promised; a process ends when its machine gets to it.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn it_is_terminated_soon_and_its_connection_replaced() {
    let server = Proxied::start("stubborn", |config| {
        config.pool.max_connections = 1;
        config.pool.acquire_timeout = Duration::from_secs(60);
        config.main.client_check_interval = Some(Duration::ZERO);
    })
    .await;
    server.node().execute(STUBBORN).await.unwrap();
    let before = pid(&server.db).await;
    let db = server.db.clone();
    let call = tokio::spawn(async move { sqlx::query(CALL).execute(&db).await });
    until_running(server.node(), "stubborn", CALL).await;
    call.abort();
    let next = tokio::time::timeout(SOON, pid(&server.db)).await.expect("its place came free");
    assert_ne!(next, before);
    let gone =
        wait_until("its process is gone", async || !has_session(server.node(), before).await);
    assert!(gone.await < SOON);
    wait_until("one session is left", async || sessions_of(server.node(), "stubborn").await == 1)
        .await;
    assert_eq!(server.pool().size, 1);
    server.engine.close().await;
}

#[tokio::test]
async fn others_are_served_meanwhile() {
    let server = Proxied::start("others", |config| {
        config.pool.max_connections = 2;
        config.pool.acquire_timeout = Duration::from_secs(60);
        config.main.client_check_interval = Some(Duration::ZERO);
    })
    .await;
    server.node().execute(STUBBORN).await.unwrap();
    let db = server.db.clone();
    let call = tokio::spawn(async move { sqlx::query(CALL).execute(&db).await });
    until_running(server.node(), "others", CALL).await;
    call.abort();
    let _ = call.await;
    // The other connection is enough for these, one after the other.
    for _ in 0..20 {
        pid(&server.db).await;
    }
    wait_until("it is gone", async || {
        flautino_lab::running(server.node(), "others", CALL).await == 0
    })
    .await;
    server.engine.close().await;
}
