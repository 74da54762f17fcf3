use std::time::Instant;

use flautino_cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_with_two_streaming_replicas_replicates() {
    let before = Instant::now();
    let cluster = Cluster::builder().replicas(2).start().await.unwrap();
    eprintln!("up after {:?}", before.elapsed());
    let primary = cluster.primary();
    primary
        .execute("CREATE TABLE t (n int); INSERT INTO t VALUES (42)")
        .await
        .unwrap();
    for replica in [cluster.replica(0), cluster.replica(1)] {
        replica.catch_up_with(primary).await.unwrap();
        let mut connection = replica.connect().await.unwrap();
        let n: i32 = sqlx::query_scalar("SELECT n FROM t")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(n, 42);
        assert!(replica.is_in_recovery().await.unwrap());
    }
    let before = Instant::now();
    cluster.stop().await;
    eprintln!("down after {:?}", before.elapsed());
}
