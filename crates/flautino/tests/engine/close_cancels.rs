//! What still runs when the engine closes is cancelled at the server, which need not find out itself.

use std::time::Duration;

use flautino::EngineConfig;
use flautino_lab::{Lab, running, until_running, until_sessions, wait_until};
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

async fn check(lab: &Lab, name: &str, sql: &str) {
    let report = lab.engine.close_within(DRAIN).await;
    assert!(report.elapsed < SOON, "{report:?}");
    let what = "the statement has ended";
    let took = wait_until(what, async || running(lab.primary(), name, sql).await == 0).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn a_statement_that_is_waited_for_is_cancelled() {
    let lab = Lab::named("polled").behind_proxy().config(unattended).start().await;
    let db = lab.db.clone();
    let sleep = tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await });
    until_running(lab.primary(), "polled", SLEEP).await;
    check(&lab, "polled", SLEEP).await;
    sleep.await.unwrap().unwrap_err();
    until_sessions(lab.primary(), "polled", 0).await;
}

#[tokio::test]
async fn a_statement_that_somebody_holds_and_does_not_poll_is_cancelled() {
    let lab = Lab::named("held").behind_proxy().config(unattended).start().await;
    let mut sleep = Box::pin(sqlx::query(SLEEP).execute(&lab.db));
    tokio::select! {
        _ = &mut sleep => panic!("it sleeps for long"),
        () = until_running(lab.primary(), "held", SLEEP) => {}
    }
    check(&lab, "held", SLEEP).await;
    let late = tokio::time::timeout(SOON, sleep).await.expect("it ends when it is polled");
    late.unwrap_err();
    until_sessions(lab.primary(), "held", 0).await;
}

#[tokio::test]
async fn a_statement_whose_rows_nobody_reads_on_is_cancelled() {
    let lab = Lab::named("rows").behind_proxy().config(unattended).start().await;
    let sql =
        "SELECT n, pg_sleep(CASE WHEN n < 10 THEN 0 ELSE 60 END) FROM generate_series(1, 20) n";
    let mut rows = sqlx::query(sql).fetch(&lab.db);
    tokio::select! {
        _ = rows.next() => {}
        () = until_running(lab.primary(), "rows", sql) => {}
    }
    check(&lab, "rows", sql).await;
    drop(rows);
    until_sessions(lab.primary(), "rows", 0).await;
}

#[tokio::test]
async fn a_statement_of_a_lease_and_one_of_a_transaction_are_cancelled() {
    for in_transaction in [false, true] {
        let lab = Lab::named("lease").behind_proxy().config(unattended).start().await;
        lab.primary().execute("CREATE TABLE t (a int)").await.unwrap();
        if in_transaction {
            let mut tx = lab.db.begin().await.unwrap();
            sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
            let mut sleep = Box::pin(sqlx::query(SLEEP).execute(&mut tx));
            tokio::select! {
                _ = &mut sleep => panic!("it sleeps for long"),
                () = until_running(lab.primary(), "lease", SLEEP) => {}
            }
            check(&lab, "lease", SLEEP).await;
            drop(sleep);
        } else {
            let mut lease = lab.db.acquire().await.unwrap();
            let mut sleep = Box::pin(sqlx::query(SLEEP).execute(&mut lease));
            tokio::select! {
                _ = &mut sleep => panic!("it sleeps for long"),
                () = until_running(lab.primary(), "lease", SLEEP) => {}
            }
            check(&lab, "lease", SLEEP).await;
            drop(sleep);
        }
        until_sessions(lab.primary(), "lease", 0).await;
        let rows: i64 = flautino_lab::ask(lab.primary(), "SELECT count(*) FROM t").await;
        assert_eq!(rows, 0);
    }
}

#[tokio::test]
async fn a_statement_abandoned_just_before_is_cancelled() {
    let lab = Lab::named("before").behind_proxy().config(unattended).start().await;
    let db = lab.db.clone();
    let sleep = tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await });
    until_running(lab.primary(), "before", SLEEP).await;
    sleep.abort();
    assert!(sleep.await.unwrap_err().is_cancelled());
    check(&lab, "before", SLEEP).await;
    until_sessions(lab.primary(), "before", 0).await;
}

#[tokio::test]
async fn all_of_a_full_pool_are_cancelled() {
    let lab = Lab::named("full").behind_proxy().config(unattended).start().await;
    let sleeps: Vec<_> = (0..4)
        .map(|_| {
            let db = lab.db.clone();
            tokio::spawn(async move { sqlx::query(SLEEP).execute(&db).await })
        })
        .collect();
    wait_until("all sleep", async || running(lab.primary(), "full", SLEEP).await == 4).await;
    check(&lab, "full", SLEEP).await;
    for sleep in sleeps {
        sleep.await.unwrap().unwrap_err();
    }
    until_sessions(lab.primary(), "full", 0).await;
}
