//! A commit whose answer never came: neither a success nor a failure.

use std::time::Duration;

use flautino::{Error, Transaction, TransactionOptions};
use flautino_lab::{Lab, ask, sessions_of, sqlstate, until_running, wait_until};
use sqlx::PgConnection;

async fn insert(connection: &mut PgConnection, value: i32) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO t VALUES ($1)").bind(value).execute(connection).await.map(drop)
}

#[tokio::test]
async fn a_connection_lost_during_commit_is_an_unknown_outcome() {
    let slow_commit = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'; \
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION slow()";
    let lab = Lab::named("lost").table("t (a int)").sql(slow_commit).behind_proxy().start().await;
    let mut tx = lab.engine.handle().begin().await.unwrap();
    insert(&mut tx, 1).await.unwrap();
    let commit = tokio::spawn(tx.commit());
    until_running(lab.primary(), "lost", "COMMIT").await;
    lab.proxy().reset().await;
    let err = commit.await.unwrap().unwrap_err();
    assert!(matches!(Error::of(&err), Some(Error::CommitUnknown(_))), "{err:?}");
    // Code that runs again what failed with `Io` must not do so here.
    assert!(!matches!(err, sqlx::Error::Io(_)), "{err:?}");
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&lab.engine.handle()).await.unwrap();
    assert_eq!(one, 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_commit_that_waits_for_a_standby_when_its_backend_is_ended_is_not_called_undone() {
    let Lab { cluster, engine, db, .. } = Lab::named("sync").table("t (a int)").start().await;
    let node = cluster.primary();
    node.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    node.execute("SELECT pg_reload_conf()").await.unwrap();
    let waiting =
        "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'";
    let mut value = 0;
    // The reload takes a moment to reach the sessions.
    wait_until("a commit waits for its standby", async || {
        value += 1;
        let mut tx = db.begin().await.unwrap();
        insert(&mut tx, value).await.unwrap();
        let commit = tokio::spawn(tx.commit());
        let ended = wait_until("the commit waits or is over", async || {
            let count = format!("SELECT count(*) FROM ({waiting}) w");
            commit.is_finished() || ask::<i64>(node, &count).await > 0
        });
        ended.await;
        if commit.is_finished() {
            return false;
        }
        let pid: i32 = ask(node, waiting).await;
        ask::<bool>(node, &format!("SELECT pg_terminate_backend({pid})")).await;
        let err = commit.await.unwrap().unwrap_err();
        assert!(matches!(Error::of(&err), Some(Error::CommitUnknown(_))), "{err:?}");
        true
    })
    .await;
    let stored = format!("SELECT count(*) FROM t WHERE a = {value}");
    assert_eq!(ask::<i64>(node, &stored).await, 1, "it was committed after all");
    engine.close_within(Duration::ZERO).await;
}

#[tokio::test]
async fn a_commit_after_the_server_ended_the_idle_transaction_is_known_to_be_undone() {
    let lab = Lab::named("idle").table("t (a int)").connections(1);
    let lab = lab.setting("idle_in_transaction_session_timeout", "200ms").start().await;
    let ended = async || sessions_of(lab.primary(), "idle").await == 0;
    for bare in [false, true] {
        let mut tx = lab.db.begin().await.unwrap();
        if bare {
            insert(&mut tx, 1).await.unwrap();
        } else {
            sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        }
        wait_until("the session is ended", ended).await;
        let err = tx.commit().await.unwrap_err();
        assert_eq!(sqlstate(&err), "25P03", "{err:?}");
        assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, 0);
    }
    // So it is run again, where that is wanted.
    let attempts = std::cell::Cell::new(0);
    let options = TransactionOptions { retries: 1, ..TransactionOptions::default() };
    let work = async |tx: &mut Transaction| {
        attempts.set(attempts.get() + 1);
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
        if attempts.get() == 1 {
            wait_until("the session is ended", ended).await;
        }
        Ok::<_, sqlx::Error>(())
    };
    lab.db.transaction_with(options, work).await.unwrap();
    assert_eq!(attempts.get(), 2);
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, 1);
    lab.engine.close().await;
}
