//! What is tortured: the servers, the network in front of them, and the app processes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flautino_cluster::{Cluster, Node, Proxy};
use futures_util::future::try_join_all;
use serde::Deserialize;
use tempfile::TempDir;

use crate::apps::{Apps, Broken};
use crate::check::Check;
use crate::history::{Episode, Final, Moment, Remark};

/// The nodes as the apps call them, in the cluster's order.
pub(crate) const NODES: [&str; 3] = ["main", "replica_1", "replica_2"];

/// Any one of the others confirms a commit; a node is none of its own standbys.
const QUORUM: &str = "ANY 1 (primary, replica_1, replica_2)";

const TABLES: &str = "CREATE TABLE entries (key bigint NOT NULL, id bigint NOT NULL); \
                      CREATE INDEX ON entries (key); \
                      CREATE TABLE junk (text text); \
                      CREATE SCHEMA decoy; CREATE TABLE decoy.entries (LIKE entries)";

/// How long apps may take to see that all is whole.
const PATIENCE: Duration = Duration::from_secs(40);

/// All of it. Dropped, nothing of it is left.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: Instant,
    pub(crate) apps: Arc<Apps>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) cluster: Cluster,
    primary: AtomicUsize,
    notes: Mutex<Notes>,
    http: reqwest::Client,
    _folder: TempDir,
}

/// What it writes down.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) episodes: Vec<Episode>,
    pub(crate) primaries: Vec<(Moment, &'static str)>,
    pub(crate) remarks: Vec<Remark>,
}

impl World {
    /// Starts everything; answers when every app sees every server.
    pub(crate) async fn start(
        program: PathBuf,
        apps: usize,
        logs: Option<PathBuf>,
    ) -> Result<Self, Broken> {
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
            notes: Mutex::default(),
            http,
            _folder: own,
        };
        world.notes().primaries.push((Duration::ZERO, NODES[0]));
        try_join_all((0..apps).map(|app| world.apps.start(app))).await?;
        world.whole().await?;
        Ok(world)
    }

    /// The number of the node that is the primary.
    pub(crate) fn primary(&self) -> usize {
        self.primary.load(Ordering::Relaxed)
    }

    /// From now on it is this one.
    pub(crate) fn set_primary(&self, number: usize) {
        self.primary.store(number, Ordering::Relaxed);
        self.notes().primaries.push((self.clock.elapsed(), NODES[number]));
    }

    pub(crate) fn node(&self, number: usize) -> &Node {
        self.cluster.nodes().nth(number).unwrap_or_else(|| self.cluster.primary())
    }

    /// The numbers of the replicas.
    pub(crate) fn replicas(&self) -> Vec<usize> {
        let primary = self.primary();
        (0..NODES.len()).filter(|number| *number != primary).collect()
    }

    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        // Things are only added.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn remark(&self, check: Check, text: String) {
        let at = self.clock.elapsed();
        self.notes().remarks.push(Remark { at, check, text });
    }

    /// Waits until all servers stream, and every app has noticed. It is a violation if one does not.
    pub(crate) async fn whole(&self) -> Result<(), Broken> {
        let primary = self.node(self.primary());
        let replicas = self.replicas().into_iter().map(|number| async move {
            let node = self.node(number);
            node.wait_until_streaming().await?;
            node.catch_up_with(primary).await
        });
        try_join_all(replicas).await?;
        self.apps_see("whole", |status| status.is_whole(NODES[self.primary()])).await;
        Ok(())
    }

    /// Waits until every app has the present primary for its own.
    pub(crate) async fn apps_know_the_primary(&self) {
        let primary = NODES[self.primary()];
        self.apps_see("the new primary", |status| status.primary.as_deref() == Some(primary)).await;
    }

    async fn apps_see(&self, what: &str, looks_right: impl Fn(&Status) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        for app in 0..self.apps.count() {
            // One that is killed meanwhile sees nothing, and comes back at another address.
            while let Some(address) = self.apps.addresses()[app] {
                let status = self.status(&format!("http://{address}/status.json")).await;
                if status.as_ref().is_ok_and(&looks_right) {
                    break;
                }
                if Instant::now() >= deadline {
                    let text = format!("app {app} does not see {what} in {PATIENCE:?}: {status:?}");
                    self.remark(Check::NotWhole, text);
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

    /// A small text from an app.
    pub(crate) async fn fetch(&self, url: String) -> Result<String, reqwest::Error> {
        self.http.get(url).timeout(Duration::from_secs(5)).send().await?.text().await
    }

    /// What the tables of all nodes hold, asked over connections of our own.
    pub(crate) async fn finals(&self) -> Result<Vec<Final>, Broken> {
        let mut finals = Vec::new();
        for number in std::iter::once(self.primary()).chain(self.replicas()) {
            let mut connection = self.node(number).connect().await?;
            let sql = "SELECT id, min(key), count(*) FROM entries GROUP BY id \
                       UNION ALL SELECT id, -1, count(*) FROM decoy.entries GROUP BY id";
            let rows: Vec<(i64, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut connection).await?;
            let unsigned = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
            let rows = rows.into_iter();
            let rows = rows.map(|(id, key, n)| (unsigned(id), (unsigned(key), unsigned(n))));
            finals.push(Final { node: NODES[number].to_owned(), rows: rows.collect() });
        }
        Ok(finals)
    }
}

/// Of `status.json`, what matters here.
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
    fn is_whole(&self, primary: &str) -> bool {
        let fits = |node: &NodeStatus| {
            let role = if node.name == primary { "primary" } else { "replica" };
            node.health == "up" && node.reason.is_none() && node.role == role
        };
        self.primary.as_deref() == Some(primary) && self.nodes.iter().all(fits)
    }
}

/// An app's settings: the defaults, but for a pool that all clients fit into at once, and that is
/// empty soon after.
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
