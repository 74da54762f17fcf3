use std::collections::HashSet;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use flautino_cluster::{Cluster, ClusterError, Node, Proxy};

use sqlx::ConnectOptions;

use crate::{count, fill};

#[tokio::test]
async fn a_primary_with_two_streaming_replicas_replicates() {
    let cluster = Cluster::builder().replicas(2).start().await.unwrap();
    let primary = cluster.primary();
    fill(primary).await;
    for replica in [cluster.replica(0), cluster.node("replica_2").unwrap()] {
        replica.catch_up_with(primary).await.unwrap();
        assert_eq!(count(replica).await, 1);
        assert!(replica.is_in_recovery().await.unwrap());
    }
    assert!(!primary.is_in_recovery().await.unwrap());
    cluster.stop().await;
}

#[tokio::test]
async fn two_clusters_at_once_are_strangers() {
    let start = || Cluster::builder().replicas(1).start();
    let (one, two) = tokio::join!(start(), start());
    let (one, two) = (one.unwrap(), two.unwrap());
    let ports: HashSet<_> = one.nodes().chain(two.nodes()).map(Node::port).collect();
    assert_eq!(ports.len(), 4);
    fill(one.primary()).await;
    assert!(two.primary().execute("SELECT FROM t").await.is_err());

    let mut systems = HashSet::new();
    for cluster in [&one, &two] {
        let mut connection = cluster.primary().connect().await.unwrap();
        let system: i64 = sqlx::query_scalar("SELECT system_identifier FROM pg_control_system()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        systems.insert(system);
    }
    assert_eq!(systems.len(), 2);
}

#[tokio::test]
async fn settings_reach_all_nodes_even_those_that_a_standby_must_not_have_less_of() {
    let builder = Cluster::builder().replicas(1).setting("max_connections", "20");
    let cluster = builder.setting("work_mem", "'64kB").start().await;
    // The quote is a part of the value, and no way out of it.
    let text = cluster.unwrap_err().to_string();
    assert!(text.contains("work_mem") && text.contains("its log ends"), "{text}");

    let builder = Cluster::builder().replicas(1).setting("max_connections", "20");
    let cluster = builder.start().await.unwrap();
    for node in cluster.nodes() {
        let mut connection = node.connect().await.unwrap();
        let query = sqlx::query_scalar("SHOW max_connections");
        let value: String = query.fetch_one(&mut connection).await.unwrap();
        assert_eq!(value, "20");
    }
}

#[tokio::test]
async fn a_taken_port_is_avoided() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let cluster = Cluster::builder().primary_port(port).start().await.unwrap();
    assert_ne!(cluster.primary().port(), port);
    cluster.primary().execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_starts() {
    let refused = Cluster::builder().cascading(1).start().await;
    assert!(matches!(refused, Err(ClusterError::Invalid(_))));
    let refused = Cluster::builder().setting("port", "1").start().await;
    assert!(matches!(refused, Err(ClusterError::Invalid(_))));
    let refused = Cluster::builder().bin_dir("/nowhere").start().await;
    assert!(refused.unwrap_err().to_string().contains("initdb"));
}

#[tokio::test]
async fn an_unknown_node_is_told_with_the_known_ones() {
    let cluster = Cluster::builder().start().await.unwrap();
    let text = cluster.node("main").unwrap_err().to_string();
    assert!(text.contains("main") && text.contains("primary"), "{text}");
}

/// Futures can be spawned, and what they borrow can be shared.
#[allow(dead_code, reason = "it only has to compile")]
fn all_is_send(cluster: &'static Cluster, proxy: &'static Proxy) {
    let node = cluster.primary();
    tokio::spawn(Cluster::builder().start());
    tokio::spawn(cluster.add_replica(node));
    tokio::spawn(node.rejoin(node));
    tokio::spawn(node.follow(node));
    tokio::spawn(node.restart());
    tokio::spawn(node.kill());
    tokio::spawn(node.hang());
    tokio::spawn(node.promote());
    tokio::spawn(node.catch_up_with(node));
    tokio::spawn(node.execute("SELECT 1"));
    tokio::spawn(proxy.cut());
    tokio::spawn(proxy.reset());
}

#[tokio::test]
async fn a_file_of_the_user_s_own_is_there_on_all_nodes_and_can_be_replaced() {
    let rules = "host all postgres 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n";
    let cluster = Cluster::builder().replicas(1).file("pg_hba.conf", rules).start().await.unwrap();
    cluster.primary().execute("CREATE ROLE other LOGIN").await.unwrap();
    let replica = cluster.replica(0);
    replica.catch_up_with(cluster.primary()).await.unwrap();
    for node in cluster.nodes() {
        let as_other = node.connect_options().username("other");
        let refused = as_other.connect().await.unwrap_err().to_string();
        assert!(refused.contains("no pg_hba.conf entry"), "{refused}");
        let meta = std::fs::metadata(node.data_dir().join("pg_hba.conf")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }
    replica.write_file("pg_hba.conf", &format!("{rules}host all other all trust\n")).unwrap();
    replica.execute("SELECT pg_reload_conf()").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while replica.connect_options().username("other").connect().await.is_err() {
        assert!(Instant::now() < deadline, "the new rules are not in force");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_file_elsewhere_or_of_the_cluster_s_own_is_refused() {
    for name in ["", "..", "base/x", "/tmp/x", "postgresql.conf"] {
        let refused = Cluster::builder().file(name, "").start().await;
        assert!(matches!(refused, Err(ClusterError::Invalid(_))), "{name:?}: {refused:?}");
    }
}
