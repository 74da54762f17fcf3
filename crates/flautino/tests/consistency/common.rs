//! What these tests share: engines that see what they are told to see, and reads that tell who
//! answered and why.

use std::time::{Duration, Instant};

use flautino::{Consistency, Engine, EngineConfig, Handle, Token};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{catch_up, cluster, config, open, settings, wait_until};

/// What counts as no wait, on a machine that is busy with other things. Who waits for a connection or
/// for a primary does so for `acquire_timeout` (5 s) or `failover_timeout` (10 s).
pub(crate) const NO_WAIT: Duration = Duration::from_secs(3);
/// The rows of `t`.
pub(crate) const COUNT: &str = "SELECT count(*) FROM t";

/// A cluster with an empty table `t (a int)` on all nodes.
pub(crate) async fn cluster_with_table(replicas: usize) -> Cluster {
    let cluster = cluster(replicas).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    cluster
}

/// As [`caught_up`], and further than any token of before: those tell how far the primary has come,
/// which may be beyond what it has written to disk. A commit writes all of it.
pub(crate) async fn catch_up_with_tokens(cluster: &Cluster) {
    let commit = "SELECT pg_logical_emit_message(true, 'test', 'commit')";
    cluster.primary().execute(commit).await.unwrap();
    catch_up(cluster).await;
}

/// An open engine whose configuration was changed. Its servers have time to answer, since the token
/// of a write is a position only if the primary has said in time where it is.
pub(crate) async fn engine_with(
    cluster: &Cluster,
    name: &str,
    change: impl FnOnce(&mut EngineConfig),
) -> Engine {
    let mut config = config(cluster, name);
    config.routing.probe_timeout = Duration::from_secs(5);
    change(&mut config);
    open(config).await
}

/// An open engine with [`settings::frozen`].
pub(crate) async fn frozen_engine(cluster: &Cluster, name: &str) -> Engine {
    engine_with(cluster, name, settings::frozen).await
}

/// One read: what it answered, who served it, why that node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) value: i64,
    pub(crate) node: String,
    pub(crate) reason: String,
    pub(crate) took: Duration,
}

impl Read {
    pub(crate) fn is_from_replica(&self) -> bool {
        self.node.starts_with("read_replica")
    }
}

/// Reads one number. Nothing else may run on the engine meanwhile, since the reason is what its
/// counters say.
pub(crate) async fn try_read(
    engine: &Engine,
    db: &Handle,
    sql: &'static str,
) -> Result<Read, sqlx::Error> {
    let before = engine.status().decisions;
    let started = Instant::now();
    let value = sqlx::query_scalar(sql).fetch_one(db).await?;
    let took = started.elapsed();
    let after = engine.status().decisions;
    let counted = after.iter().filter(|(reason, count)| before.get(*reason) != Some(*count));
    let reason = counted.map(|(reason, _)| *reason).collect::<Vec<_>>().join(",");
    Ok(Read { value, node: db.served_by().unwrap().to_string(), reason, took })
}

pub(crate) async fn read(engine: &Engine, db: &Handle, sql: &'static str) -> Read {
    try_read(engine, db, sql).await.unwrap()
}

pub(crate) async fn insert(db: &Handle, value: i32) {
    sqlx::query("INSERT INTO t VALUES ($1)").bind(value).execute(db).await.unwrap();
}

/// A new session that goes on from the token, as text.
pub(crate) fn with_token(engine: &Engine, token: Token) -> Handle {
    let db = engine.handle();
    db.observe(&token.to_string().parse().unwrap());
    db
}

/// Waits until the engine knows that node as its primary.
pub(crate) async fn until_primary(engine: &Engine, name: &str) {
    wait_until(&format!("{name} is the primary"), async || {
        engine.status().primary.as_deref() == Some(name)
    })
    .await;
}

/// Keeps a replica from receiving anything, also over restarts.
pub(crate) async fn cut_off(replica: &Node) {
    replica.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'").await.unwrap();
    replica.execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("the replica receives nothing", async || {
        flautino_lab::ask::<i64>(replica, "SELECT count(*) FROM pg_stat_wal_receiver").await == 0
    })
    .await;
}

/// Ends what [`cut_off`] began.
pub(crate) async fn reconnect(replica: &Node) {
    replica.execute("ALTER SYSTEM RESET primary_conninfo").await.unwrap();
    replica.execute("SELECT pg_reload_conf()").await.unwrap();
}

/// The token's parts: system, timeline, position.
pub(crate) fn parts(token: Token) -> (u64, u64, u64) {
    let text = token.to_string();
    let fields: Vec<_> = flautino_lab::bare(&text).split('.').skip(1).collect();
    assert_eq!(fields.len(), 3, "{text}");
    let number = |index: usize| u64::from_str_radix(fields[index], 16).unwrap();
    (number(0), number(1), number(2))
}

/// The token of these parts.
pub(crate) fn token_of((system, timeline, lsn): (u64, u64, u64)) -> Token {
    flautino_lab::summed(&format!("1.{system:x}.{timeline:x}.{lsn:x}")).parse().unwrap()
}

pub(crate) fn is_until(token: Token) -> bool {
    token.to_string().starts_with("1.until.")
}

pub(crate) fn token_probes(engine: &Engine) -> u64 {
    engine.status().nodes.iter().map(|node| node.token_probes).sum()
}

/// Has each of two replicas asked until its latency is that of a server at work. The only probe of a
/// frozen monitor is its first, and one that took long would leave a replica without reads.
async fn settle_latencies(engine: &Engine) {
    for _ in 0..10 {
        for replica in ["read_replica_1", "read_replica_2"] {
            let db = session(engine);
            read(engine, &db.node(replica).unwrap(), COUNTER).await;
            db.token().await.unwrap();
        }
    }
}

/// Two processes over a counter, and replicas of which the second shows it as it was.
pub(crate) async fn counter() -> (Cluster, Engine, Engine) {
    let cluster = cluster_with_table(2).await;
    cluster.primary().execute("CREATE TABLE c AS SELECT 0::int8 AS n").await.unwrap();
    catch_up(&cluster).await;
    let (one, other) =
        (frozen_engine(&cluster, "one").await, frozen_engine(&cluster, "other").await);
    settle_latencies(&one).await;
    settle_latencies(&other).await;
    cluster.replica(1).pause_replay().await.unwrap();
    (cluster, one, other)
}

pub(crate) const COUNTER: &str = "SELECT n FROM c";
pub(crate) const ADD: &str = "UPDATE c SET n = n + 1";

pub(crate) fn session(engine: &Engine) -> Handle {
    engine.handle().with_consistency(Consistency::Session)
}
