//! What a statement costs on the wire, counted by a proxy in front of the server.

use std::time::Duration;

use flautino::EngineConfig;
use flautino_cluster::Proxy;
use flautino_lab::{cluster, open};
use sqlx::PgPool;

#[tokio::test]
async fn a_warm_query_costs_one_round_trip_and_one_through_sqlx_s_pool_three() {
    let cluster = cluster(0).await;
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());

    let mut config = EngineConfig::from_url(&url).unwrap();
    config.extensions.clear();
    // What has rested for a second is looked at again.
    config.pool.warm_time = Duration::from_secs(60);
    let engine = open(config).await;
    let db = engine.handle();
    let ours = round_trips(&proxy, async || {
        sqlx::query("SELECT $1::int4").bind(1).execute(&db).await.unwrap();
    });
    assert_eq!(ours.await, 1);
    engine.close().await;

    let pool = PgPool::connect(&url).await.unwrap();
    let theirs = round_trips(&proxy, async || {
        sqlx::query("SELECT $1::int4").bind(1).execute(&pool).await.unwrap();
        // sqlx pings in a task of its own when a connection comes back.
        flautino_lab::wait_until("the connection is back in the pool", async || {
            pool.num_idle() == 1
        })
        .await;
    });
    assert_eq!(theirs.await, 3);
    pool.close().await;
}

/// Round trips of one call, after some to prepare the statement.
async fn round_trips(proxy: &Proxy, mut call: impl AsyncFnMut()) -> u64 {
    for _ in 0..3 {
        call().await;
    }
    let before = proxy.round_trips();
    call().await;
    proxy.round_trips() - before
}
