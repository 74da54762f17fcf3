use flautino_cluster::{Cluster, ClusterError, Rejoined};

use crate::{count, eventually, fill};

#[tokio::test]
async fn paused_replay_keeps_a_write_from_being_seen() {
    let cluster = Cluster::builder().replicas(1).start().await.unwrap();
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    fill(primary).await;
    replica.catch_up_with(primary).await.unwrap();

    replica.pause_replay().await.unwrap();
    primary.execute("INSERT INTO t VALUES (2)").await.unwrap();
    let written = primary.position().await.unwrap();
    // It has arrived, and is still not shown.
    eventually("the replica has received the write", async || {
        let mut connection = replica.connect().await.unwrap();
        let query = sqlx::query_scalar("SELECT pg_last_wal_receive_lsn() >= $1::pg_lsn");
        query.bind(&written).fetch_one(&mut connection).await.unwrap()
    })
    .await;
    assert_eq!(count(replica).await, 1);

    replica.resume_replay().await.unwrap();
    replica.catch_up_with(primary).await.unwrap();
    assert_eq!(count(replica).await, 2);
}

#[tokio::test]
async fn after_a_failover_replicas_follow_and_the_old_primary_rejoins() {
    let cluster = Cluster::builder().replicas(2).start().await.unwrap();
    let (old, new, other) = (cluster.primary(), cluster.replica(0), cluster.replica(1));
    fill(old).await;
    new.catch_up_with(old).await.unwrap();
    other.catch_up_with(old).await.unwrap();

    new.promote().await.unwrap();
    assert!(matches!(new.promote().await, Err(ClusterError::State { .. })));
    // Both take writes now: the old one's is lost later.
    old.execute("INSERT INTO t VALUES (-1), (-2)").await.unwrap();
    new.execute("INSERT INTO t VALUES (2)").await.unwrap();
    old.kill().await.unwrap();

    assert_eq!(old.rejoin(new).await.unwrap(), Rejoined::Rewound);
    old.catch_up_with(new).await.unwrap();
    assert_eq!(count(old).await, 2);
    assert!(old.is_in_recovery().await.unwrap());
    // A replica too can have come too far for the new primary; then it has to be rewound as well.
    other.rejoin(new).await.unwrap();
    new.execute("INSERT INTO t VALUES (3)").await.unwrap();
    other.catch_up_with(new).await.unwrap();
    assert_eq!(count(other).await, 3);
}

#[tokio::test]
async fn a_replica_follows_a_new_primary_without_a_restart() {
    let cluster = Cluster::builder().replicas(2).start().await.unwrap();
    let (old, new, other) = (cluster.primary(), cluster.replica(0), cluster.replica(1));
    fill(old).await;
    old.stop().await.unwrap();
    new.promote().await.unwrap();
    let pid = other.pid();
    other.follow(new).await.unwrap();
    assert_eq!(other.pid(), pid);
    new.execute("INSERT INTO t VALUES (2)").await.unwrap();
    other.catch_up_with(new).await.unwrap();
    assert_eq!(count(other).await, 2);
    assert!(matches!(new.follow(other).await, Err(ClusterError::State { .. })));
    assert!(matches!(old.follow(new).await, Err(ClusterError::State { .. })));
    old.rejoin(new).await.unwrap();
    old.catch_up_with(new).await.unwrap();
}

#[tokio::test]
async fn a_former_primary_that_cannot_be_rewound_is_copied() {
    let cluster = Cluster::builder().replicas(1).start().await.unwrap();
    let (old, new) = (cluster.primary(), cluster.replica(0));
    fill(old).await;
    new.catch_up_with(old).await.unwrap();
    old.kill().await.unwrap();
    new.promote().await.unwrap();
    std::fs::remove_file(old.data_dir().join("global/pg_control")).unwrap();
    let segment = crate::leftovers::segment(old);
    assert_eq!(old.rejoin(new).await.unwrap(), Rejoined::Copied);
    old.catch_up_with(new).await.unwrap();
    assert_eq!(count(old).await, 1);
    assert!(old.rejoin(old).await.is_err());
    assert!(!crate::leftovers::is_segment(&segment));
}

#[tokio::test]
async fn replicas_can_be_added_and_can_cascade() {
    let cluster = Cluster::builder().replicas(1).cascading(1).start().await.unwrap();
    let first = cluster.replica(0);
    fill(cluster.primary()).await;
    first.catch_up_with(cluster.primary()).await.unwrap();
    let added = cluster.add_replica(first).await.unwrap();
    assert_eq!(added.name(), "replica_3");
    cluster.add_replica(cluster.primary()).await.unwrap();
    assert_eq!(cluster.nodes().count(), 5);
    for replica in cluster.nodes().skip(1) {
        replica.catch_up_with(cluster.primary()).await.unwrap();
        assert_eq!(count(replica).await, 1);
    }
    // Two stream from the first replica.
    let mut connection = first.connect().await.unwrap();
    let query = sqlx::query_scalar("SELECT count(*) FROM pg_stat_replication");
    let streaming: i64 = query.fetch_one(&mut connection).await.unwrap();
    assert_eq!(streaming, 2);
}
