//! sqlx's pool of a node beside the engine's own: read-only on a replica, and for as long as it is one.

use flautino::{Engine, Role};
use flautino_cluster::Cluster;
use flautino_lab::{Lab, wait_until};
use futures_util::future::try_join_all;
use sqlx::PgPool;

const READ_ONLY: &str = "SELECT current_setting('default_transaction_read_only')";

async fn start(name: &str) -> (Cluster, Engine, PgPool) {
    let Lab { cluster, engine, .. } = Lab::named(name).replicas(1).table("t (a int)").start().await;
    let pool = engine.pool("read_replica_1").unwrap();
    (cluster, engine, pool)
}

async fn read_only(pool: &PgPool) -> String {
    sqlx::query_scalar(READ_ONLY).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn it_is_read_only_on_a_replica_and_not_on_the_primary() {
    let (_cluster, engine, pool) = start("roles").await;
    assert_eq!(read_only(&engine.pool("main").unwrap()).await, "off");
    for _ in 0..3 {
        let mut connection = pool.acquire().await.unwrap();
        let is: String = sqlx::query_scalar(READ_ONLY).fetch_one(&mut *connection).await.unwrap();
        assert_eq!(is, "on");
        let turn_off = sqlx::query("SET default_transaction_read_only = off");
        turn_off.execute(&mut *connection).await.unwrap();
    }
    engine.close().await;
}

#[tokio::test]
async fn after_a_promotion_none_of_its_connections_is_read_only() {
    let (cluster, engine, pool) = start("promoted").await;
    // Three that rest, and one that is held meanwhile.
    let resting = try_join_all((0..3).map(|_| pool.acquire())).await.unwrap();
    let mut held = pool.acquire().await.unwrap();
    let is: String = sqlx::query_scalar(READ_ONLY).fetch_one(&mut *held).await.unwrap();
    assert_eq!(is, "on");
    drop(resting);
    wait_until("they rest", async || pool.num_idle() == 3).await;

    cluster.replica(0).promote().await.unwrap();
    wait_until("the engine knows", async || engine.status().nodes[1].role == Role::Primary).await;
    drop(held);
    let mut all = try_join_all((0..5).map(|_| pool.acquire())).await.unwrap();
    for connection in &mut all {
        let is: String = sqlx::query_scalar(READ_ONLY).fetch_one(&mut **connection).await.unwrap();
        assert_eq!(is, "off");
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut **connection).await.unwrap();
    }
    drop(all);
    assert_eq!(engine.pool("read_replica_1").map(|pool| pool.is_closed()), Some(false));
    engine.close().await;
}
