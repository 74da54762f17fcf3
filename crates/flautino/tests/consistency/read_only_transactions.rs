//! A read-only transaction is a read: on an admitted replica, with the floor looked at before
//! `BEGIN`.

use flautino::{Error, IsolationLevel, TransactionOptions};
use flautino_lab::{Lab, pause_replay, settings, sqlstate, wait_until};

use crate::common::*;

fn read_only() -> TransactionOptions {
    TransactionOptions { read_only: true, ..TransactionOptions::default() }
}

#[tokio::test]
async fn it_runs_on_a_replica_that_has_the_floor_and_on_the_primary_when_that_is_ahead() {
    let Lab { cluster, engine, .. } =
        Lab::named("read_only").replicas(2).table("t (a int)").frozen().start().await;
    pause_replay(&cluster).await;
    let repeatable =
        TransactionOptions { isolation: Some(IsolationLevel::RepeatableRead), ..read_only() };
    for options in [read_only(), repeatable] {
        // It wrote nothing, so any replica will do.
        let mut tx = engine.handle().begin_with(options.clone()).await.unwrap();
        assert!(tx.node().starts_with("read_replica"), "{}", tx.node());
        let recovers: bool =
            sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut tx).await.unwrap();
        assert!(recovers);
        tx.commit().await.unwrap();

        let writer = engine.handle();
        insert(&writer, 1).await;
        let truth: i64 = flautino_lab::ask(cluster.primary(), COUNT).await;
        let token = writer.token().await.unwrap();
        for db in [writer, with_token(&engine, token)] {
            let mut tx = db.begin_with(options.clone()).await.unwrap();
            assert_eq!(tx.node(), "main");
            let seen: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut tx).await.unwrap();
            assert_eq!(seen, truth);
            tx.commit().await.unwrap();
        }
    }
    engine.close().await;
}

#[tokio::test]
async fn once_a_replica_has_replayed_the_floor_it_runs_there() {
    let lab = Lab::named("met")
        .replicas(2)
        .table("t (a int)")
        .patient_probes()
        .config(settings::lively)
        .start()
        .await;
    let db = lab.engine.handle();
    insert(&db, 1).await;
    wait_until("a replica runs it", async || {
        let mut tx = db.begin_with(read_only()).await.unwrap();
        let seen: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut tx).await.unwrap();
        assert_eq!(seen, 1, "on {}", tx.node());
        tx.node().starts_with("read_replica")
    })
    .await;
    // In the closure form too.
    let node = db.transaction_with(read_only(), async |tx| {
        let _: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut *tx).await?;
        Ok::<_, sqlx::Error>(tx.node().to_owned())
    });
    assert!(node.await.unwrap().starts_with("read_replica"));
    lab.engine.close().await;
}

#[tokio::test]
async fn a_statement_in_it_that_changes_its_session_is_refused_on_a_replica_and_not_on_the_primary()
{
    let Lab { cluster, engine, .. } =
        Lab::named("session").replicas(1).table("t (a int)").frozen().start().await;
    for sql in [
        "SELECT pg_advisory_lock(7)",
        "SELECT pg_try_advisory_xact_lock(7)",
        "SET work_mem = '9MB'",
    ] {
        let db = engine.handle();
        let mut tx = db.begin_with(read_only()).await.unwrap();
        let refused = sqlx::query(sql).execute(&mut tx).await.unwrap_err();
        let is_ours = matches!(
            Error::of(&refused),
            Some(Error::NotOnReplica { node }) if node == "read_replica_1"
        );
        assert!(is_ours, "{sql}: {refused}");
        // It was not sent, so the transaction stands.
        sqlx::query("SELECT 1").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();

        let mut tx = db.primary().begin_with(read_only()).await.unwrap();
        sqlx::query(sql).execute(&mut tx).await.unwrap_or_else(|err| panic!("{sql}: {err}"));
        tx.rollback().await.unwrap();
    }
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(flautino_lab::ask::<i64>(cluster.replica(0), locks).await, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_write_in_it_is_the_server_s_error_and_serializable_ones_run_on_the_primary() {
    let lab = Lab::named("refused").replicas(1).table("t (a int)").frozen().start().await;
    let mut tx = lab.db.begin_with(read_only()).await.unwrap();
    assert_eq!(tx.node(), "read_replica_1");
    let refused = sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "25006");
    tx.rollback().await.unwrap();
    assert!(!lab.db.owes_token(), "it wrote nothing");

    let serializable =
        TransactionOptions { isolation: Some(IsolationLevel::Serializable), ..read_only() };
    let mut tx = lab.db.begin_with(serializable).await.unwrap();
    assert_eq!(tx.node(), "main");
    let _: i64 = sqlx::query_scalar(COUNT).fetch_one(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    lab.engine.close().await;
}
