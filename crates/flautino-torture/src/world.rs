//! What faults and clients act on: the servers, the proxies in front of them, and the app processes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flautino_cluster::{Cluster, Node, Proxy};
use futures_util::future::try_join_all;
use parking_lot::{Mutex, MutexGuard};
use serde::Deserialize;
use tempfile::TempDir;

use crate::apps::Apps;
use crate::error::BoxError;
use crate::history::{Episode, FinalTable, Moment, Remark};
use crate::violation::Check;

/// The nodes as the apps call them, in the cluster's order.
pub(crate) const NODES: [&str; 3] = ["main", "replica_1", "replica_2"];

/// One standby must confirm each commit. All nodes are named, since each may be the primary, which is
/// not a standby of its own.
const QUORUM: &str = "ANY 1 (primary, replica_1, replica_2)";

const TABLES: &str = "CREATE TABLE entries (key bigint NOT NULL, id bigint NOT NULL); \
                      CREATE INDEX ON entries (key); \
                      CREATE TABLE junk (text text); \
                      CREATE SCHEMA decoy; CREATE TABLE decoy.entries (LIKE entries)";

/// How long apps may take to see that the servers have recovered.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(40);

/// The whole system. When it is dropped, its processes are ended and its folders removed.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: Instant,
    pub(crate) apps: Arc<Apps>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) cluster: Cluster,
    primary: AtomicUsize,
    records: Mutex<Records>,
    http: reqwest::Client,
    _folder: TempDir,
}

/// The parts of the history that do not come from clients.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) episodes: Vec<Episode>,
    pub(crate) primaries: Vec<(Moment, &'static str)>,
    pub(crate) remarks: Vec<Remark>,
}

impl World {
    /// Starts everything. Returns when every app sees every server.
    pub(crate) async fn start(
        program: PathBuf,
        apps: usize,
        logs: Option<PathBuf>,
    ) -> Result<Self, BoxError> {
        let cluster = Cluster::builder()
            .replicas(NODES.len() - 1)
            .setting("synchronous_standby_names", QUORUM)
            .setting("max_connections", "200")
            .setting("max_standby_streaming_delay", "100ms")
            .start()
            .await?;
        cluster.primary().execute(TABLES).await?;
        let proxies = try_join_all(cluster.nodes().map(|node| Proxy::start(node.addr()))).await?;
        let own = tempfile::Builder::new().prefix("flautino-torture-").tempdir()?;
        let folder = match logs {
            Some(logs) => {
                std::fs::create_dir_all(&logs)?;
                logs
            }
            None => own.path().to_owned(),
        };
        for app in 0..apps {
            let config = configuration(&proxies, app);
            std::fs::write(folder.join(format!("app-{app}.toml")), config)?;
        }
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        let world = Self {
            clock: Instant::now(),
            apps: Arc::new(Apps::new(program, &folder, apps)),
            proxies,
            cluster,
            primary: AtomicUsize::new(0),
            records: Mutex::default(),
            http,
            _folder: own,
        };
        world.records().primaries.push((Duration::ZERO, NODES[0]));
        try_join_all((0..apps).map(|app| world.apps.start(app))).await?;
        world.wait_for_recovery().await?;
        Ok(world)
    }

    /// The number of the node that is the primary.
    pub(crate) fn primary(&self) -> usize {
        self.primary.load(Ordering::Relaxed)
    }

    /// Records that this node is the primary from now on.
    pub(crate) fn set_primary(&self, number: usize) {
        self.primary.store(number, Ordering::Relaxed);
        self.records().primaries.push((self.clock.elapsed(), NODES[number]));
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        self.cluster.nodes().nth(number).unwrap_or_else(|| self.cluster.primary())
    }

    /// The numbers of the replicas.
    pub(crate) fn replicas(&self) -> Vec<usize> {
        let primary = self.primary();
        (0..NODES.len()).filter(|number| *number != primary).collect()
    }

    pub(crate) fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock()
    }

    /// Records a violation that no operation shows.
    pub(crate) fn remark(&self, check: Check, text: String) {
        let at = self.clock.elapsed();
        self.records().remarks.push(Remark { at, check, text });
    }

    /// Waits until every replica streams, and every app has noticed. It is a violation if an app does not.
    pub(crate) async fn wait_for_recovery(&self) -> Result<(), BoxError> {
        let primary = self.node(self.primary());
        let replicas = self.replicas().into_iter().map(|number| async move {
            let node = self.node(number);
            node.wait_until_streaming().await?;
            node.catch_up_with(primary).await
        });
        try_join_all(replicas).await?;
        self.wait_for_apps("that all nodes serve", |status| {
            status.all_serve(NODES[self.primary()])
        })
        .await;
        Ok(())
    }

    /// Waits until every app knows the present primary.
    pub(crate) async fn wait_until_apps_know_primary(&self) {
        let primary = NODES[self.primary()];
        self.wait_for_apps("the new primary", |status| status.primary.as_deref() == Some(primary))
            .await;
    }

    /// Waits until the status of every app is right.
    async fn wait_for_apps(&self, what: &str, is_right: impl Fn(&Status) -> bool) {
        let deadline = Instant::now() + RECOVERY_TIMEOUT;
        for app in 0..self.apps.count() {
            // The address is asked for again each time, since an app that is killed meanwhile has none,
            // and comes back at another one.
            while let Some(address) = self.apps.addresses()[app] {
                let status = self.status(&format!("http://{address}/status.json")).await;
                if status.as_ref().is_ok_and(&is_right) {
                    break;
                }
                if Instant::now() >= deadline {
                    let text = format!(
                        "app {app} does not see {what} in {RECOVERY_TIMEOUT:?}: {status:?}"
                    );
                    self.remark(Check::NotRecovered, text);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }
    }

    async fn status(&self, url: &str) -> Result<Status, reqwest::Error> {
        let request = self.http.get(url).timeout(Duration::from_secs(5));
        request.send().await?.json().await
    }

    /// Gets a small text from an app.
    pub(crate) async fn fetch(&self, url: String) -> Result<String, reqwest::Error> {
        self.http.get(url).timeout(Duration::from_secs(5)).send().await?.text().await
    }

    /// Reads the tables of all nodes, without an app.
    pub(crate) async fn finals(&self) -> Result<Vec<FinalTable>, BoxError> {
        let mut finals = Vec::new();
        for number in std::iter::once(self.primary()).chain(self.replicas()) {
            let mut connection = self.node(number).connect().await?;
            let sql = "SELECT id, min(key), count(*) FROM entries GROUP BY id \
                       UNION ALL SELECT id, -1, count(*) FROM decoy.entries GROUP BY id";
            let rows: Vec<(i64, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut connection).await?;
            let unsigned = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
            let rows = rows.into_iter();
            let rows = rows.map(|(id, key, n)| (unsigned(id), (unsigned(key), unsigned(n))));
            finals.push(FinalTable { node: NODES[number].to_owned(), rows: rows.collect() });
        }
        Ok(finals)
    }
}

/// The part of `status.json` that matters here.
#[derive(Debug, Deserialize)]
struct Status {
    primary: Option<String>,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Deserialize)]
struct NodeStatus {
    name: String,
    role: String,
    health: String,
    reason: Option<String>,
}

impl Status {
    fn all_serve(&self, primary: &str) -> bool {
        let serves = |node: &NodeStatus| {
            let role = if node.name == primary { "primary" } else { "replica" };
            node.health == "up" && node.reason.is_none() && node.role == role
        };
        self.primary.as_deref() == Some(primary) && self.nodes.iter().all(serves)
    }
}

/// An app's settings: the defaults, except for shorter intervals, and a pool that has room for all
/// clients at once.
fn configuration(proxies: &[Proxy], app: usize) -> String {
    let node =
        |proxy: &Proxy| format!("url = \"{}\"\napplication_name = \"app-{app}\"\n", proxy.url());
    let mut text = node(&proxies[0]);
    text.push_str("extensions = []\n[pool]\nmax_connections = 40\nidle_timeout = \"3s\"\n");
    text.push_str("[routing]\nprobe_interval = \"250ms\"\n");
    for (proxy, name) in proxies.iter().zip(NODES).skip(1) {
        text.push_str(&format!("[extra_nodes.{name}]\n{}", node(proxy)));
    }
    text
}
