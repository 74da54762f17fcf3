//! All servers at once.

use flautino_cluster::Cluster;

/// A cluster with this many streaming replicas.
pub async fn cluster(replicas: usize) -> Cluster {
    Cluster::builder().replicas(replicas).start().await.unwrap()
}

/// Waits until every replica has replayed all that the primary has written.
pub async fn catch_up(cluster: &Cluster) {
    for replica in cluster.nodes().skip(1) {
        replica.catch_up_with(cluster.primary()).await.unwrap();
    }
}

/// From now on replicas receive and do not replay.
pub async fn pause_replay(cluster: &Cluster) {
    for replica in cluster.nodes().skip(1) {
        replica.pause_replay().await.unwrap();
    }
}

/// Ends what [`pause_replay`] began.
pub async fn resume_replay(cluster: &Cluster) {
    for replica in cluster.nodes().skip(1) {
        replica.resume_replay().await.unwrap();
    }
}
