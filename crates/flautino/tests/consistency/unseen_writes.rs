//! Writes whose end the session does not see: on a bare connection that is still held, in a stream
//! that is dropped, in a transaction of sqlx's own that lasts long.

use std::time::{Duration, Instant};

use flautino::Handle;
use flautino_cluster::Cluster;
use flautino_lab::{
    Lab, catch_up, pause_replay, settings, until_running, until_served_by, wait_until,
};
use futures_util::TryStreamExt;

use crate::common::*;

#[tokio::test]
async fn a_write_on_a_bare_connection_that_is_still_held_counts_for_the_next_read() {
    let Lab { cluster, engine, .. } =
        Lab::named("held").replicas(1).table("t (a int)").frozen().start().await;
    pause_replay(&cluster).await;
    let db = engine.handle();
    let mut lease = db.acquire().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *lease).await.unwrap();
    let next = read(&engine, &db, COUNT).await;
    assert_eq!(next.value, 1, "{next:?}");
    drop(lease);
    engine.close().await;
}

#[tokio::test]
async fn a_write_on_a_bare_connection_that_is_still_held_counts_for_the_token() {
    let cluster = cluster_with_table(1).await;
    let (one, other) =
        (frozen_engine(&cluster, "one").await, frozen_engine(&cluster, "other").await);
    pause_replay(&cluster).await;
    let db = one.handle();
    let mut lease = db.acquire().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *lease).await.unwrap();
    assert!(db.owes_token(), "a token is owed");
    let token = db.token().await.expect("a token");
    assert_eq!(read(&other, &with_token(&other, token), COUNT).await.value, 1);
    drop(lease);
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_long_write_whose_stream_is_dropped_after_the_first_row_counts_for_the_next_read() {
    let Lab { cluster, engine, .. } = Lab::named("dropped")
        .replicas(1)
        .table("t (a int)")
        .patient_probes()
        .config(|config| {
            settings::lively(config);
            config.routing.max_lag = settings::HOUR;
            config.routing.token_window = settings::HOUR;
        })
        .start()
        .await;
    let insert = "INSERT INTO t SELECT 1 FROM pg_sleep(0.3) RETURNING a";
    for round in 1..=5 {
        cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
        until_served_by(&engine, &["read_replica_1"]).await;
        cluster.replica(0).pause_replay().await.unwrap();
        let db = engine.handle();
        let mut rows = sqlx::query(insert).fetch(&db);
        rows.try_next().await.unwrap().unwrap();
        drop(rows);
        // What the server says of the statement that was given up, and then what the session sees.
        let sql = "SELECT count(*) FROM t";
        let next = read(&engine, &db, sql).await;
        let truth: i64 = flautino_lab::ask(cluster.primary(), sql).await;
        assert_eq!(next.value, truth, "in round {round}: {next:?}");
        cluster.replica(0).resume_replay().await.unwrap();
    }
    engine.close().await;
}

#[tokio::test]
async fn sqlx_s_own_transaction_counts_as_a_write_also_when_it_outlasts_the_token_window() {
    let window = Duration::from_secs(3);
    let cluster = Cluster::builder()
        .replicas(1)
        .setting("recovery_min_apply_delay", "2s")
        .start()
        .await
        .unwrap();
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    let engine = engine_with(&cluster, "long", |config| {
        settings::lively(config);
        config.routing.max_lag = window;
        config.routing.token_window = window;
    })
    .await;
    until_served_by(&engine, &["read_replica_1"]).await;
    let db = engine.handle();
    let begun = Instant::now();
    let mut tx = sqlx::Acquire::begin(&db).await.unwrap();
    while begun.elapsed() < window + Duration::from_millis(500) {
        sqlx::query("SELECT pg_sleep(0.1)").execute(&mut *tx).await.unwrap();
    }
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let next = read(&engine, &db, COUNT).await;
    assert_eq!(next.value, 1, "{next:?}");
    engine.close().await;
}

/// Drops a write while the server runs it.
async fn give_up_a_write(cluster: &Cluster, db: &Handle, application: &str) {
    let insert = "INSERT INTO t SELECT 1 FROM pg_sleep(5)";
    tokio::select! {
        _ = sqlx::query(insert).execute(db) => unreachable!(),
        () = until_running(cluster.primary(), application, insert) => {}
    }
}

/// The server may do it after whatever position the primary tells now.
#[tokio::test]
async fn the_token_of_a_write_that_was_given_up_means_the_primary_also_after_a_later_write() {
    let Lab { cluster, engine, db, .. } =
        Lab::named("given up").replicas(1).table("t (a int)").frozen().start().await;
    give_up_a_write(&cluster, &db, "given up").await;
    assert!(db.owes_token());
    for _ in 0..2 {
        let token = db.token().await.unwrap();
        assert!(is_until(token), "{token}");
        let next = read(&engine, &with_token(&engine, token), COUNT).await;
        assert_eq!((&*next.node, &*next.reason), ("main", "token_window"));
        insert(&db, 2).await;
    }
    engine.close().await;
}

#[tokio::test]
async fn a_write_that_its_deadline_cut_is_as_one_that_was_given_up() {
    let Lab { cluster: _cluster, engine, db, .. } =
        Lab::named("cut").replicas(1).table("t (a int)").frozen().start().await;
    let late = db.with_deadline(Instant::now() + Duration::from_secs(2));
    let insert = "INSERT INTO t SELECT 1 FROM pg_sleep(600)";
    sqlx::query(insert).execute(&late).await.unwrap_err();
    assert!(db.owes_token());
    let token = db.token().await.unwrap();
    assert!(is_until(token), "{token}");
    let next = read(&engine, &with_token(&engine, token), COUNT).await;
    assert_eq!((&*next.node, &*next.reason), ("main", "token_window"));
    engine.close().await;
}

#[tokio::test]
async fn when_the_window_of_a_write_that_was_given_up_is_over_the_token_is_a_position() {
    let Lab { cluster, engine, db, .. } = Lab::named("over")
        .replicas(1)
        .table("t (a int)")
        .patient_probes()
        .config(|config| {
            settings::lively(config);
            config.routing.max_lag = Duration::from_secs(2);
            config.routing.token_window = Duration::from_secs(2);
        })
        .start()
        .await;
    give_up_a_write(&cluster, &db, "over").await;
    assert!(is_until(db.token().await.unwrap()));
    wait_until("the window is over", async || !is_until(db.token().await.unwrap())).await;
    engine.close().await;
}
