use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use flautino_cluster::{Cluster, ClusterError, Node};

use crate::{TIMEOUT, count, fill};

fn refuses(node: &Node) -> bool {
    TcpStream::connect(node.addr()).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn a_hung_server_answers_nothing_and_goes_on_when_resumed() {
    let cluster = Cluster::builder().start().await.unwrap();
    let node = cluster.primary();
    let mut connection = node.connect().await.unwrap();
    node.hang().await.unwrap();
    assert!(node.is_hung() && node.is_running());
    assert!(matches!(node.start().await, Err(ClusterError::State { .. })));

    let mut query = Box::pin(sqlx::query("SELECT 1").execute(&mut connection));
    let short = Duration::from_millis(300);
    assert!(tokio::time::timeout(short, &mut query).await.is_err());
    // New connections get no answer either.
    assert!(tokio::time::timeout(short, node.connect()).await.is_err());

    node.resume().await.unwrap();
    tokio::time::timeout(TIMEOUT, query).await.unwrap().unwrap();
    node.execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_killed_server_refuses_and_comes_back_with_what_it_had() {
    let cluster = Cluster::builder().replicas(1).start().await.unwrap();
    let node = cluster.primary();
    fill(node).await;
    let port = node.port();
    let mut connection = node.connect().await.unwrap();
    node.kill().await.unwrap();
    assert!(!node.is_running() && refuses(node));
    assert!(sqlx::query("SELECT 1").execute(&mut connection).await.is_err());

    node.start().await.unwrap();
    assert_eq!(node.port(), port);
    assert_eq!(count(node).await, 1);
    // Its replica finds it again by itself.
    cluster.replica(0).wait_until_streaming().await.unwrap();
}

#[tokio::test]
async fn a_stopped_server_refuses_and_restarts_on_its_port() {
    let cluster = Cluster::builder().start().await.unwrap();
    let node = cluster.primary();
    fill(node).await;
    node.restart().await.unwrap();
    assert_eq!(count(node).await, 1);
    node.stop_immediate().await.unwrap();
    assert!(refuses(node));
    node.start().await.unwrap();
    node.stop().await.unwrap();
    // A second time does nothing.
    node.stop().await.unwrap();
    assert!(refuses(node));
    assert!(node.log().contains("database system is shut down"));
    assert!(matches!(node.hang().await, Err(ClusterError::State { .. })));
}

#[tokio::test]
async fn a_hung_server_can_be_stopped_and_killed() {
    let cluster = Cluster::builder().start().await.unwrap();
    let node = cluster.primary();
    node.hang().await.unwrap();
    node.stop().await.unwrap();
    node.start().await.unwrap();
    node.hang().await.unwrap();
    node.kill().await.unwrap();
    assert!(!node.is_running());
    node.start().await.unwrap();
    node.execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_server_that_dies_by_itself_is_noticed() {
    let cluster = Cluster::builder().start().await.unwrap();
    let node = cluster.primary();
    let pid = nix::unistd::Pid::from_raw(node.pid().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    crate::eventually("the server is seen to be gone", async || !node.is_running()).await;
    node.start().await.unwrap();
}
