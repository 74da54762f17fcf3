//! An engine over a pool that exists.

use std::time::Duration;

use flautino::{AcquireStep, Engine, Error};
use flautino_lab::{Lab, cluster, sessions_of, until_sessions, wait_until};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};

async fn pool(cluster: &flautino_cluster::Cluster) -> PgPool {
    let options = cluster.primary().connect_options().application_name("pool");
    let hook = PgPoolOptions::new().max_connections(2).after_connect(|connection, _| {
        Box::pin(async move { connection.execute("SET work_mem = '9MB'").await.map(drop) })
    });
    hook.connect_with(options).await.unwrap()
}

#[tokio::test]
async fn it_is_open_and_works_and_the_pool_s_own_hooks_and_settings_stay() {
    let cluster = cluster(0).await;
    let engine = Engine::from_pool(pool(&cluster).await);
    assert!(engine.open().await.unwrap().already_open);
    let db = engine.handle();
    // PostgreSQL 13 has no `client_connection_check_interval`.
    let sql = "SELECT current_setting('work_mem') \
               || coalesce(current_setting('client_connection_check_interval', true), '0')";
    let settings: String = sqlx::query_scalar(sql).fetch_one(&db).await.unwrap();
    assert_eq!(settings, "9MB0");
    let mut tx = db.begin().await.unwrap();
    tx.execute("SELECT 1").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(engine.status().nodes[0].pool.unwrap().max, 2);
    assert!(engine.close().await.was_open);
    wait_until("the pool is closed", async || sessions_of(cluster.primary(), "pool").await == 0)
        .await;
}

#[tokio::test]
async fn what_the_pool_s_hook_has_set_is_still_set_after_a_session_was_used() {
    let cluster = cluster(0).await;
    let engine = Engine::from_pool(pool(&cluster).await);
    let db = engine.handle();
    for _ in 0..5 {
        let mut lease = db.acquire().await.unwrap();
        sqlx::query("SET work_mem = '7MB'").execute(&mut lease).await.unwrap();
        drop(lease);
        let set: String =
            sqlx::query_scalar("SELECT current_setting('work_mem')").fetch_one(&db).await.unwrap();
        assert_eq!(set, "9MB");
    }
    engine.close().await;
}

#[tokio::test]
async fn no_connection_of_the_pool_rests_in_the_engine_and_its_end_is_the_engine_s() {
    let cluster = cluster(0).await;
    let pool = pool(&cluster).await;
    let engine = Engine::from_pool(pool.clone());
    let db = engine.handle();
    sqlx::query("SELECT 1").execute(&db).await.unwrap();
    assert_eq!(engine.status().nodes[0].pool.unwrap().warm, 0);
    tokio::time::timeout(Duration::from_secs(10), pool.close()).await.expect("not blocked");
    let err = sqlx::query("SELECT 1").execute(&db).await.unwrap_err();
    assert!(matches!(Error::of(&err), Some(Error::Closed { .. })), "{err:?}");
    until_sessions(cluster.primary(), "pool", 0).await;
}

#[tokio::test]
async fn closing_the_pg_pool_beside_an_engine_leaves_the_engine_alone() {
    let lab = Lab::named("outside").start().await;
    let pool = lab.engine.pool("main").unwrap();
    sqlx::query("SELECT 1").execute(&pool).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), pool.close()).await.expect("not blocked");
    sqlx::query("SELECT 1").execute(&lab.engine.handle()).await.unwrap();
    lab.engine.close().await;
    lab.engine.open().await.unwrap();
    sqlx::query("SELECT 1").execute(&lab.engine.pool("main").unwrap()).await.unwrap();
    lab.engine.close().await;
}

#[tokio::test]
async fn a_pool_that_others_use_up_is_told_so_and_not_that_the_server_may_be_down() {
    let cluster = cluster(0).await;
    let options = cluster.primary().connect_options();
    let patience = PgPoolOptions::new().acquire_timeout(Duration::from_secs(1));
    let pool = patience.max_connections(2).connect_with(options).await.unwrap();
    let engine = Engine::from_pool(pool.clone());
    let held = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
    let err = sqlx::query("SELECT 1").execute(&engine.handle()).await.unwrap_err();
    let Some(Error::AcquireTimeout { step, .. }) = Error::of(&err) else { panic!("{err:?}") };
    assert_eq!(*step, AcquireStep::WaitingForAppPool);
    let told = err.to_string();
    assert!(told.contains("from_pool") && !told.contains("is up"), "{told}");
    drop(held);
    sqlx::query("SELECT 1").execute(&engine.handle()).await.unwrap();
    engine.close().await;
}
