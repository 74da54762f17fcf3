//! What still runs when the engine closes is cancelled at the server, which need not find out itself.

use std::time::Duration;

use flautino::EngineConfig;
use flautino_lab::{Proxied, running, until_running, until_sessions, wait_until};
use futures_util::StreamExt;

const SLEEP: &str = "SELECT pg_sleep(60)";
const DRAIN: Duration = Duration::from_millis(100);
/// Two seconds were promised; the rest is for a machine that has others to serve.
const SOON: Duration = Duration::from_secs(10);

fn unattended(config: &mut EngineConfig) {
    config.pool.max_connections = 4;
    // The server does not look whether anybody is there.
    config.main.client_check_interval = Some(Duration::ZERO);
}

async fn check(server: &Proxied, name: &str, sql: &str) {
    let report = server.engine.close_within(DRAIN).await;
    assert!(report.elapsed < SOON, "{report:?}");
    let what = "the statement has ended";
    let took = wait_until(what, async || running(server.node(), name, sql).await == 0).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn a_statement_that_is_waited_for_is_cancelled() {
    let server = Proxied::start("polled", unattended).await;
    let db = server.db.clone();
    let sleep = tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await });
    until_running(server.node(), "polled", SLEEP).await;
    check(&server, "polled", SLEEP).await;
    sleep.await.unwrap().unwrap_err();
    until_sessions(server.node(), "polled", 0).await;
}

#[tokio::test]
async fn a_statement_that_somebody_holds_and_does_not_poll_is_cancelled() {
    let server = Proxied::start("held", unattended).await;
    let mut sleep = Box::pin(sqlx::query(SLEEP).execute(&server.db));
    tokio::select! {
        _ = &mut sleep => panic!("it sleeps for long"),
        () = until_running(server.node(), "held", SLEEP) => {}
    }
    check(&server, "held", SLEEP).await;
    let late = tokio::time::timeout(SOON, sleep).await.expect("it ends when it is polled");
    late.unwrap_err();
    until_sessions(server.node(), "held", 0).await;
}

#[tokio::test]
async fn a_statement_whose_rows_nobody_reads_on_is_cancelled() {
    let server = Proxied::start("rows", unattended).await;
    let sql =
        "SELECT n, pg_sleep(CASE WHEN n < 10 THEN 0 ELSE 60 END) FROM generate_series(1, 20) n";
    let mut rows = sqlx::query(sql).fetch(&server.db);
    tokio::select! {
        _ = rows.next() => {}
        () = until_running(server.node(), "rows", sql) => {}
    }
    check(&server, "rows", sql).await;
    drop(rows);
    until_sessions(server.node(), "rows", 0).await;
}

#[tokio::test]
async fn a_statement_of_a_lease_and_one_of_a_transaction_are_cancelled() {
    for in_transaction in [false, true] {
        let server = Proxied::start("lease", unattended).await;
        server.node().execute("CREATE TABLE t (a int)").await.unwrap();
        if in_transaction {
            let mut tx = server.db.begin().await.unwrap();
            sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
            let mut sleep = Box::pin(sqlx::query(SLEEP).execute(&mut tx));
            tokio::select! {
                _ = &mut sleep => panic!("it sleeps for long"),
                () = until_running(server.node(), "lease", SLEEP) => {}
            }
            check(&server, "lease", SLEEP).await;
            drop(sleep);
        } else {
            let mut lease = server.db.acquire().await.unwrap();
            let mut sleep = Box::pin(sqlx::query(SLEEP).execute(&mut lease));
            tokio::select! {
                _ = &mut sleep => panic!("it sleeps for long"),
                () = until_running(server.node(), "lease", SLEEP) => {}
            }
            check(&server, "lease", SLEEP).await;
            drop(sleep);
        }
        until_sessions(server.node(), "lease", 0).await;
        let rows: i64 = flautino_lab::ask(server.node(), "SELECT count(*) FROM t").await;
        assert_eq!(rows, 0);
    }
}

#[tokio::test]
async fn a_statement_abandoned_just_before_is_cancelled() {
    let server = Proxied::start("before", unattended).await;
    let db = server.db.clone();
    let sleep = tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await });
    until_running(server.node(), "before", SLEEP).await;
    sleep.abort();
    assert!(sleep.await.unwrap_err().is_cancelled());
    check(&server, "before", SLEEP).await;
    until_sessions(server.node(), "before", 0).await;
}

#[tokio::test]
async fn all_of_a_full_pool_are_cancelled() {
    let server = Proxied::start("full", unattended).await;
    let sleeps: Vec<_> = (0..4)
        .map(|_| {
            let db = server.db.clone();
            tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await })
        })
        .collect();
    wait_until("all sleep", async || running(server.node(), "full", SLEEP).await == 4).await;
    check(&server, "full", SLEEP).await;
    for sleep in sleeps {
        sleep.await.unwrap().unwrap_err();
    }
    until_sessions(server.node(), "full", 0).await;
}
