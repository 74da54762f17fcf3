//! What flautino adds to a warm read, beyond the same read on a bare connection: counted, not timed.
#![allow(clippy::unwrap_used)]

use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_cluster::Cluster;
use sqlx::{Connection, PgConnection, PgExecutor};
use tokio::runtime::Builder;

const TABLE: &str =
    "CREATE TABLE counters (id int PRIMARY KEY, n int); INSERT INTO counters VALUES (1, 0)";
const READ: &str = "SELECT n FROM counters WHERE id = $1";

async fn read(executor: impl PgExecutor<'_>) {
    let n: i32 = sqlx::query_scalar(READ).bind(1).fetch_one(executor).await.unwrap();
    assert_eq!(n, 0);
}

/// The fewest allocations of several runs, and their bytes: what else happens in the process can only
/// add to them.
fn fewest(mut run: impl FnMut()) -> (u64, u64) {
    run();
    let counted = (0..50).map(|_| {
        let info = allocation_counter::measure(&mut run);
        (info.count_total, info.bytes_total)
    });
    counted.min().unwrap()
}

#[test]
fn a_warm_read_adds_few_allocations_and_small_futures() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let cluster = runtime.block_on(Cluster::builder().replicas(1).start()).unwrap();
    runtime.block_on(cluster.primary().execute(TABLE)).unwrap();
    runtime.block_on(cluster.replica(0).catch_up_with(cluster.primary())).unwrap();
    let mut bare = runtime.block_on(PgConnection::connect(&cluster.primary().url())).unwrap();
    let (bare_count, bare_bytes) = fewest(|| runtime.block_on(read(&mut bare)));
    runtime.block_on(bare.close()).unwrap();

    let mut config = EngineConfig::from_url(&cluster.primary().url()).unwrap();
    config.extensions.clear();
    for nodes in 1..=2 {
        let engine = Engine::new(config.clone()).unwrap();
        runtime.block_on(engine.open()).unwrap();
        // Each request has a handle of its own.
        let (count, bytes) = fewest(|| runtime.block_on(read(&engine.handle())));
        assert!(count <= bare_count + 5, "{nodes} nodes: {count} allocations, bare {bare_count}");
        // Most of it is the future, which is moved into its box.
        assert!(bytes <= bare_bytes + 2_560, "{nodes} nodes: {bytes} bytes, bare {bare_bytes}");
        let db = engine.handle();
        let future = size_of_val(&sqlx::query(READ).bind(1).fetch_one(&db));
        assert!(future <= 1024, "{future} bytes");
        runtime.block_on(engine.close());
        let replica = NodeConfig { url: Some(cluster.replica(0).url()), ..NodeConfig::default() };
        config.extra_nodes.insert("replica".to_owned(), replica);
    }
}
