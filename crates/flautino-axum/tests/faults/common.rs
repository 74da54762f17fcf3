//! What these tests share: a cluster, an engine over it at default settings, and an app on a socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flautino::{Engine, EngineConfig, Health, NodeStatus};
use flautino_axum::{Db, DbError, EngineLayer, Tx, status_routes};
use flautino_cluster::{Cluster, Node, Proxy};
use flautino_lab::{App, ask, config, status_of, wait_until};

use crate::load::Load;

pub(crate) const MAIN: &str = "main";
pub(crate) const REPLICAS: [&str; 2] = ["read_replica_1", "read_replica_2"];

/// What a machine with other things to do may add to a promise in time.
pub(crate) const SLACK: Duration = Duration::from_millis(500);
/// Within which a node that hangs is down, at default settings.
pub(crate) const DOWN_WITHIN: Duration = Duration::from_millis(1500);
/// The default.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// The default.
pub(crate) const FAILOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// What has nothing to wait for takes no longer than this, also on a busy machine. No wait that would
/// be a fault ends so soon: the shortest is for a connection, five seconds.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(3);

/// A cluster with the table that the load writes to.
pub(crate) async fn cluster(replicas: usize) -> Cluster {
    let cluster = flautino_lab::cluster(replicas).await;
    create_table(cluster.primary()).await;
    for replica in cluster.nodes().skip(1) {
        replica.catch_up_with(cluster.primary()).await.unwrap();
    }
    cluster
}

/// What the load writes to. It takes an id any number of times.
pub(crate) const ENTRIES: &str =
    "entries (id bigint NOT NULL, at timestamptz DEFAULT clock_timestamp())";

pub(crate) async fn create_table(primary: &Node) {
    primary.execute(&format!("CREATE TABLE {ENTRIES}")).await.unwrap();
}

/// An app over an engine over servers, which outlast the others.
pub(crate) struct Rig<Servers = Cluster> {
    pub(crate) engine: Engine,
    pub(crate) app: App,
    pub(crate) cluster: Arc<Servers>,
}

impl Rig {
    /// At default settings.
    pub(crate) async fn start(name: &str, replicas: usize) -> Self {
        let cluster = cluster(replicas).await;
        let config = config(&cluster, name);
        Self::with(cluster, config).await
    }

    /// Also at default settings, with a proxy in front of each replica.
    pub(crate) async fn behind_proxies(name: &str, replicas: usize) -> (Self, Vec<Proxy>) {
        Self::behind_proxies_with(name, replicas, |_| {}).await
    }

    /// As [`behind_proxies`](Self::behind_proxies), at changed settings.
    pub(crate) async fn behind_proxies_with(
        name: &str,
        replicas: usize,
        change: impl FnOnce(&mut EngineConfig),
    ) -> (Self, Vec<Proxy>) {
        let cluster = cluster(replicas).await;
        let mut config = config(&cluster, name);
        change(&mut config);
        let mut proxies = Vec::new();
        for (replica, node) in cluster.nodes().skip(1).zip(config.extra_nodes.values_mut()) {
            let proxy = Proxy::start(replica.addr()).await.unwrap();
            node.url = Some(proxy.url());
            proxies.push(proxy);
        }
        (Self::with(cluster, config).await, proxies)
    }
}

impl<Servers> Rig<Servers> {
    /// Returns once every node is in use.
    pub(crate) async fn with(cluster: Servers, config: EngineConfig) -> Self {
        let engine = Engine::new(config).unwrap();
        let app = App::start(routes(&engine), engine.clone()).await;
        let rig = Self { engine, app, cluster: Arc::new(cluster) };
        wait_until("the app is ready", async || rig.engine.is_ready()).await;
        rig.until_all_serve().await;
        rig
    }

    pub(crate) async fn until_all_serve(&self) {
        for name in self.engine.status().nodes.into_iter().map(|node| node.name) {
            self.until_serves(&name).await;
        }
    }

    /// Waits until the node is up, and nothing speaks against its use.
    pub(crate) async fn until_serves(&self, node: &str) {
        let what = format!("{node} is in use");
        let waiting = wait_until(&what, async || {
            let status = self.status(node);
            status.health == Health::Up && status.reason.is_none()
        });
        let mut said = None;
        let watching = async {
            loop {
                let status = self.status(node);
                let says = Some((status.health, status.reason));
                if says != said {
                    println!("{node}: {says:?}");
                    said = says;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            _ = waiting => {}
            () = watching => {}
        }
    }

    /// Waits until the node is known to be down.
    pub(crate) async fn until_down(&self, node: &str) {
        let what = format!("{node} is known to be down");
        wait_until(&what, async || self.status(node).health == Health::Down).await;
    }

    /// A node that is down is not chosen, under load for a while.
    pub(crate) async fn is_not_chosen(&self, node: &str, load: &Load) {
        let in_flight = || self.status(node).in_flight;
        wait_until("what ran there was given up", async || in_flight() == 0).await;
        // It is run again elsewhere.
        load.a_while_of_reads().await;
        let retried = || self.engine.status().decisions.get("retried").copied();
        let (began, sent, before) = (Instant::now(), self.status(node).statements, retried());
        // Its statements alone would not tell: they are counted once they have a connection. What is
        // sent to a node that gives none waits there, or is run again elsewhere.
        let watching = async {
            loop {
                assert_eq!(in_flight(), 0, "{node} is down, and somebody waits for it");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = load.a_while() => {}
            () = watching => {}
        }
        assert_eq!(self.status(node).statements, sent, "{node} is down, and was sent statements");
        // A stall may cost other nodes their probes.
        let calm = load.pulse.stalled(began, Instant::now()).is_zero();
        assert!(retried() == before || !calm, "{node} is down, and was chosen");
    }

    pub(crate) fn status(&self, node: &str) -> NodeStatus {
        status_of(&self.engine, node)
    }

    pub(crate) async fn stop(self) {
        let report = self.app.stop().await;
        assert_eq!((report.requests_cut, report.close.still_held), (0, 0), "{report:?}");
    }
}

/// A failover, by the test's clock.
pub(crate) struct Failover {
    /// The primary was dead for certain.
    pub(crate) dead: Instant,
    /// The first replica took writes.
    pub(crate) accepts: Instant,
    /// The second replica had received more than the first, and cannot follow it as it is.
    ahead: bool,
}

impl Rig {
    /// From now on no write is acknowledged that the first replica has not.
    pub(crate) async fn lose_nothing(&self) {
        let primary = self.cluster.primary();
        let sql = "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (replica_1)'";
        primary.execute(sql).await.unwrap();
        primary.execute("SELECT pg_reload_conf()").await.unwrap();
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        wait_until("replication is synchronous", async || ask::<i64>(primary, sql).await == 1)
            .await;
    }

    /// Kills the primary under load, and promotes the first replica some reads later.
    pub(crate) async fn fail_over(&self, load: &Load) -> Failover {
        self.cluster.primary().kill().await.unwrap();
        let dead = Instant::now();
        // Not many: writes wait meanwhile, and no longer than for `FAILOVER_TIMEOUT`.
        load.until_more(100, 0).await;
        self.until_down(MAIN).await;
        load.until_more(100, 0).await;
        let [first, second] = [0, 1].map(|replica| self.cluster.replica(replica));
        let received: String = ask(second, "SELECT pg_last_wal_receive_lsn()::text").await;
        let sql = format!("SELECT pg_last_wal_receive_lsn() < '{received}'");
        let ahead = ask(first, &sql).await;
        first.promote().await.unwrap();
        let accepts = Instant::now();
        let took = accepts - dead;
        assert!(took < FAILOVER_TIMEOUT - 2 * SLACK, "this machine took {took:?} for a promotion");
        Failover { dead, accepts, ahead }
    }

    /// Turns the second replica to the new primary.
    pub(crate) async fn follow(&self, failover: &Failover) {
        let [first, second] = [0, 1].map(|replica| self.cluster.replica(replica));
        if failover.ahead {
            second.rejoin(first).await.unwrap();
        } else {
            second.follow(first).await.unwrap();
        }
        self.until_serves(REPLICAS[1]).await;
    }
}

/// The app: ids are stored by a statement or in the request's transaction, and counted.
pub(crate) fn routes(engine: &Engine) -> Router {
    Router::new()
        .route("/ids/{id}", get(count).post(store))
        .route("/tx/{id}", axum::routing::post(store_in_tx))
        .layer(EngineLayer::new(engine.clone()))
        .merge(status_routes(engine.clone()))
}

/// What the client is told, and the cause, for the message of a test that fails.
struct Told(DbError);

impl From<sqlx::Error> for Told {
    fn from(error: sqlx::Error) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        let cause = self.0.to_string().replace(|c: char| !c.is_ascii() || c.is_control(), " ");
        let mut response = self.0.into_response();
        if let Ok(cause) = HeaderValue::from_str(&cause) {
            response.headers_mut().insert("cause", cause);
        }
        response
    }
}

async fn count(db: Db, Path(id): Path<i64>) -> Result<String, Told> {
    let sql = "SELECT count(*)::text FROM entries WHERE id = $1";
    Ok(sqlx::query_scalar(sql).bind(id).fetch_one(&db).await?)
}

async fn store(db: Db, Path(id): Path<i64>) -> Result<StatusCode, Told> {
    sqlx::query("INSERT INTO entries VALUES ($1)").bind(id).execute(&db).await?;
    Ok(StatusCode::CREATED)
}

async fn store_in_tx(mut tx: Tx, Path(id): Path<i64>) -> Result<StatusCode, Told> {
    sqlx::query("INSERT INTO entries VALUES ($1)").bind(id).execute(&mut tx).await?;
    Ok(StatusCode::CREATED)
}
