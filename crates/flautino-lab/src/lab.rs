//! An engine over servers of its own, for one test.

use std::fmt;
use std::time::Duration;

use flautino::{Engine, EngineConfig, Handle, PoolStatus};
use flautino_cluster::{Cluster, Node, Proxy};

use crate::cluster::catch_up;
use crate::engine::{config, open};
use crate::session::until_served_by;
use crate::settings;

/// An engine, the servers it was made for, and the way from one to the other.
///
/// ```no_run
/// # async fn test() {
/// use flautino_lab::Lab;
///
/// let lab = Lab::named("notes").replicas(2).table("notes (title text)").start().await;
/// lab.until_served_by(&["read_replica_1", "read_replica_2"]).await;
/// lab.engine.close().await;
/// # }
/// ```
#[derive(Debug)]
pub struct Lab {
    /// The engine: open after [`LabBuilder::start`], and not after [`LabBuilder::start_closed`].
    pub engine: Engine,
    /// A handle of the engine.
    pub db: Handle,
    /// What the engine was made from.
    pub config: EngineConfig,
    proxy: Option<Proxy>,
    /// The servers. They outlast the engine.
    pub cluster: Cluster,
}

impl Lab {
    /// Describes a lab with one server. `name` is the `application_name` of the engine's sessions.
    pub fn named(name: &str) -> LabBuilder<'_> {
        LabBuilder {
            name,
            cluster: Cluster::builder(),
            set_up: Vec::new(),
            role: None,
            has_positions: true,
            has_proxy: false,
            changes: Vec::new(),
            build: Box::new(|engine| engine),
        }
    }

    /// The primary that the cluster began with, whatever became of it.
    #[must_use]
    pub fn primary(&self) -> &Node {
        self.cluster.primary()
    }

    /// The engine's only way to the primary, where there is one.
    #[must_use]
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the lab was started with `behind_proxy`")
    }

    /// The state of the main node's pool.
    #[must_use]
    pub fn pool(&self) -> PoolStatus {
        self.engine.status().nodes[0].pool.unwrap()
    }

    /// Opens another engine of the same configuration, as another process of the app would.
    pub async fn another(&self) -> Engine {
        open(self.config.clone()).await
    }

    /// Waits until each of these nodes has served a read of a new session.
    pub async fn until_served_by(&self, nodes: &[&str]) {
        until_served_by(&self.engine, nodes).await;
    }
}

type Change<'a> = Box<dyn FnOnce(&mut EngineConfig) + Send + 'a>;

/// What a [`Lab`] will be.
#[must_use = "nothing is there before `start`"]
pub struct LabBuilder<'a> {
    name: &'a str,
    cluster: flautino_cluster::Builder,
    set_up: Vec<String>,
    role: Option<&'a str>,
    has_positions: bool,
    has_proxy: bool,
    changes: Vec<Change<'a>>,
    build: Box<dyn FnOnce(Engine) -> Engine + Send + 'a>,
}

impl fmt::Debug for LabBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The servers.
impl<'a> LabBuilder<'a> {
    /// This many replicas that stream from the primary: `read_replica_1`, `read_replica_2`, ….
    pub fn replicas(mut self, count: usize) -> Self {
        self.cluster = self.cluster.replicas(count);
        self
    }

    /// This many more replicas, which stream from the first one.
    pub fn cascading(mut self, count: usize) -> Self {
        self.cluster = self.cluster.cascading(count);
        self
    }

    /// A setting of all servers.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.cluster = self.cluster.setting(name, value);
        self
    }

    /// A table on all servers, as in `t (a int)`.
    pub fn table(self, definition: &str) -> Self {
        self.sql(&format!("CREATE TABLE {definition}"))
    }

    /// Runs this on the primary before the engine is made. Replicas have it too when it opens.
    pub fn sql(mut self, sql: &str) -> Self {
        self.set_up.push(sql.to_owned());
        self
    }

    /// The engine logs in as a role that may use the tables and nothing else.
    pub fn as_role(mut self, role: &'a str) -> Self {
        self.role = Some(role);
        self
    }

    /// The engine's role may not ask for positions in the log. Needs [`as_role`](Self::as_role).
    pub fn without_positions(mut self) -> Self {
        self.has_positions = false;
        self
    }

    /// A [`Lab::proxy`] between engine and primary. The server logs who connects, which is what
    /// [`sessions_begun`](crate::sessions_begun) counts.
    pub fn behind_proxy(mut self) -> Self {
        self.has_proxy = true;
        self.setting("log_connections", "on")
    }
}

/// The engine.
impl<'a> LabBuilder<'a> {
    /// Changes the configuration. Changes are made in the order of the calls, those of the methods
    /// below included.
    pub fn config(mut self, change: impl FnOnce(&mut EngineConfig) + Send + 'a) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Changes the engine before it opens, such as by hooks.
    pub fn engine(mut self, build: impl FnOnce(Engine) -> Engine + Send + 'a) -> Self {
        self.build = Box::new(build);
        self
    }

    /// Pools of at most this many connections: see [`settings::connections`].
    pub fn connections(self, max: u32) -> Self {
        self.config(move |config| settings::connections(config, max))
    }

    /// Pools of one connection: see [`settings::connections`].
    pub fn one_connection(self) -> Self {
        self.connections(1)
    }

    /// Connections that rest stay warm: see [`settings::always_warm`].
    pub fn always_warm(self) -> Self {
        self.config(settings::always_warm)
    }

    /// Servers do not find out by themselves that their client is gone.
    pub fn without_client_check(self) -> Self {
        self.config(|config| config.main.client_check_interval = Some(Duration::ZERO))
    }

    /// The monitor believes what it saw at open: see [`settings::frozen`].
    pub fn frozen(self) -> Self {
        self.config(settings::frozen)
    }

    /// Servers have time to answer the monitor: see [`settings::patient_probes`].
    pub fn patient_probes(self) -> Self {
        self.config(settings::patient_probes)
    }

    /// How long a server may take to answer the monitor.
    pub fn probe_timeout(self, timeout: Duration) -> Self {
        self.config(move |config| config.routing.probe_timeout = timeout)
    }

    /// Starts the servers, and opens the engine.
    pub async fn start(self) -> Lab {
        let lab = self.start_closed().await;
        lab.engine.open().await.unwrap();
        lab
    }

    /// Starts the servers, and leaves the engine closed.
    pub async fn start_closed(self) -> Lab {
        let cluster = self.cluster.start().await.unwrap();
        for sql in &self.set_up {
            cluster.primary().execute(sql).await.unwrap();
        }
        if let Some(role) = self.role {
            create_role(cluster.primary(), role, self.has_positions).await;
        }
        catch_up(&cluster).await;
        let mut config = config(&cluster, self.name);
        if let Some(role) = self.role {
            settings::log_in_as(&mut config, role);
        }
        let mut proxy = None;
        if self.has_proxy {
            let to_primary = Proxy::start(cluster.primary().addr()).await.unwrap();
            config.main.url = Some(to_primary.url());
            proxy = Some(to_primary);
        }
        for change in self.changes {
            change(&mut config);
        }
        let engine = (self.build)(Engine::new(config.clone()).unwrap());
        Lab { db: engine.handle(), engine, config, proxy, cluster }
    }
}

/// A role that may use the tables that are there.
async fn create_role(primary: &Node, role: &str, has_positions: bool) {
    let grant = format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; \
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    );
    primary.execute(&grant).await.unwrap();
    if !has_positions {
        let revoke = "REVOKE EXECUTE ON FUNCTION pg_current_wal_insert_lsn() FROM PUBLIC; \
                      REVOKE EXECUTE ON FUNCTION pg_last_wal_replay_lsn() FROM PUBLIC";
        primary.execute(revoke).await.unwrap();
    }
}
