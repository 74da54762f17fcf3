use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use flautino_cluster::{Cluster, Proxy};
use sqlx::{ConnectOptions, Executor, PgConnection};

use crate::{TIMEOUT, eventually};

async fn select(connection: &mut PgConnection) -> sqlx::Result<()> {
    connection.execute(sqlx::raw_sql("SELECT 1")).await.map(drop)
}

async fn set_up() -> (Cluster, Proxy, PgConnection) {
    let cluster = Cluster::builder().start().await.unwrap();
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let connection = proxy.connect_options().connect().await.unwrap();
    (cluster, proxy, connection)
}

#[tokio::test]
async fn a_simple_query_is_one_round_trip() {
    let (_cluster, proxy, mut connection) = set_up().await;
    assert_eq!((proxy.connections(), proxy.accepted()), (1, 1));
    for _ in 0..20 {
        let before = proxy.round_trips();
        select(&mut connection).await.unwrap();
        assert_eq!(proxy.round_trips() - before, 1);
    }
    proxy.reset_counters();
    assert_eq!((proxy.round_trips(), proxy.accepted()), (0, 0));
}

#[tokio::test]
async fn cut_closes_all_and_refuses_until_healed() {
    let (_cluster, proxy, mut connection) = set_up().await;
    proxy.cut().await;
    assert_eq!(proxy.connections(), 0);
    assert!(select(&mut connection).await.is_err());
    let refused = TcpStream::connect(proxy.addr()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.cut().await;
    proxy.heal().unwrap();
    let mut connection = proxy.connect_options().connect().await.unwrap();
    select(&mut connection).await.unwrap();
}

#[tokio::test]
async fn stall_carries_nothing_until_healed() {
    let (_cluster, proxy, mut connection) = set_up().await;
    proxy.stall();
    let short = Duration::from_millis(200);
    let mut query = Box::pin(select(&mut connection));
    assert!(tokio::time::timeout(short, &mut query).await.is_err());
    assert!(tokio::time::timeout(short, proxy.connect_options().connect()).await.is_err());
    proxy.heal().unwrap();
    tokio::time::timeout(TIMEOUT, query).await.unwrap().unwrap();
}

#[tokio::test]
async fn slow_adds_latency_each_way() {
    let (_cluster, proxy, mut connection) = set_up().await;
    proxy.slow(Duration::from_millis(50));
    let before = Instant::now();
    select(&mut connection).await.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(100));
    // A large answer has the latency of a small one, not that of each of its pieces.
    let before = Instant::now();
    // These are some two hundred, and would be ten seconds.
    let large = sqlx::raw_sql("SELECT repeat('x', 1000) FROM generate_series(1, 3000)");
    connection.execute(large).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(5));
    proxy.heal().unwrap();
    select(&mut connection).await.unwrap();
}

#[tokio::test]
async fn reset_ends_connections_and_lets_new_ones_in() {
    let (_cluster, proxy, mut connection) = set_up().await;
    let raw = TcpStream::connect(proxy.addr()).unwrap();
    eventually("both are there", async || proxy.connections() == 2).await;
    proxy.reset().await;
    assert_eq!(proxy.connections(), 0);
    let error = std::io::Read::read(&mut &raw, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(select(&mut connection).await.is_err());
    let mut connection = proxy.connect_options().connect().await.unwrap();
    select(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_is_seen_by_the_server_at_once() {
    let (cluster, proxy, mut connection) = set_up().await;
    select(&mut connection).await.unwrap();
    let mut watcher = cluster.primary().connect().await.unwrap();
    let set = "SET client_connection_check_interval = '20ms'";
    connection.execute(set).await.unwrap();
    let sleep = sqlx::raw_sql("SELECT pg_sleep(1000)");
    let short = Duration::from_millis(100);
    let cut_off = tokio::time::timeout(short, connection.execute(sleep)).await;
    assert!(cut_off.is_err());
    drop(connection);
    eventually("the server has ended the session", async || {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)'";
        let query = sqlx::query_scalar::<_, i64>(sessions);
        query.fetch_one(&mut watcher).await.unwrap() == 0
    })
    .await;
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn a_server_that_goes_away_is_seen_by_the_client_and_another_takes_over() {
    let cluster = Cluster::builder().replicas(1).start().await.unwrap();
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut connection = proxy.connect_options().connect().await.unwrap();
    cluster.primary().kill().await.unwrap();
    eventually("the connection is gone", async || proxy.connections() == 0).await;
    assert!(select(&mut connection).await.is_err());
    assert!(proxy.connect_options().connect().await.is_err());
    proxy.set_target(cluster.replica(0).addr());
    let mut connection = proxy.connect_options().connect().await.unwrap();
    select(&mut connection).await.unwrap();
}

#[tokio::test]
async fn drop_ends_all_connections() {
    let (_cluster, proxy, mut connection) = set_up().await;
    let addr = proxy.addr();
    drop(proxy);
    assert!(select(&mut connection).await.is_err());
    assert!(TcpStream::connect(addr).is_err());
}
