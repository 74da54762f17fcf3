//! What these tests share: sets of nodes, who answered, one port on many addresses, and a resolver
//! under the test's control.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flautino::{Consistency, Engine, EngineConfig, Error, Handle, NodeConfig, NodesReport};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{
    catch_up, cluster, config, node_of, run, settings, until_served_by, wait_until,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) const MAIN: &str = "main";
/// The names of the cluster's replicas, in its order.
pub(crate) const NAMES: [&str; 3] = ["r1", "r2", "r3"];
/// For what must succeed, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A server as a node, with sessions of this name.
pub(crate) fn node(server: &Node, app: &str) -> NodeConfig {
    node_at(server.url(), app)
}

pub(crate) fn node_at(url: String, app: &str) -> NodeConfig {
    let application_name = Some(app.to_owned());
    NodeConfig { url: Some(url), application_name, ..NodeConfig::default() }
}

/// These of the cluster's replicas (by index), each under its name in [`NAMES`].
pub(crate) fn these(cluster: &Cluster, app: &str, replicas: &[usize]) -> Nodes {
    let named = |index: &usize| (NAMES[*index].to_owned(), node(cluster.replica(*index), app));
    replicas.iter().map(named).collect()
}

pub(crate) type Nodes = BTreeMap<String, NodeConfig>;

/// An engine, not open, of the cluster's primary and these of its replicas.
pub(crate) fn unopened(
    cluster: &Cluster,
    app: &str,
    replicas: &[usize],
    change: impl FnOnce(&mut EngineConfig),
) -> Engine {
    let mut config = config(cluster, app);
    config.extra_nodes = these(cluster, app, replicas);
    change(&mut config);
    Engine::new(config).unwrap()
}

/// The same, open.
pub(crate) async fn open_with(
    cluster: &Cluster,
    app: &str,
    replicas: &[usize],
    change: impl FnOnce(&mut EngineConfig),
) -> Engine {
    let engine = unopened(cluster, app, replicas, change);
    engine.open().await.unwrap();
    engine
}

/// Probes as often as possible, and what came back serves at once.
pub(crate) fn eager(config: &mut EngineConfig) {
    config.routing.probe_interval = Duration::from_millis(50);
    config.routing.slow_start = Duration::ZERO;
}

/// As [`eager`], and what leaves is ended at once.
pub(crate) fn hasty(config: &mut EngineConfig) {
    eager(config);
    config.drain_timeout = Duration::from_millis(200);
}

pub(crate) async fn set(engine: &Engine, nodes: Nodes) -> NodesReport {
    engine.set_nodes(nodes).await.unwrap()
}

pub(crate) fn names(engine: &Engine) -> Vec<String> {
    engine.status().nodes.into_iter().map(|node| node.name).collect()
}

/// Sessions of the engine on that server, the monitor's included.
pub(crate) async fn sessions(server: &Node, app: &str) -> i64 {
    let mut connection = server.connect().await.unwrap();
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, $1)",
    )
    .bind(app)
    .fetch_one(&mut connection)
    .await
    .unwrap()
}

pub(crate) async fn until_no_sessions(server: &Node, app: &str) {
    let what = format!("no session of `{app}` is left on {}", server.name());
    wait_until(&what, async || sessions(server, app).await == 0).await;
}

/// A table `t (a int)` on all nodes.
pub(crate) async fn with_table(cluster: Cluster) -> Cluster {
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    cluster
}

pub(crate) const INSERT: &str = "INSERT INTO t VALUES (1)";
pub(crate) const COUNT: &str = "SELECT count(*) FROM t";

/// A function that replicas take a minute for and a primary no time, and that passes for a read.
pub(crate) const SLOW_ON_REPLICAS: &str = "CREATE FUNCTION slow() RETURNS int8 \
     LANGUAGE plpgsql STABLE AS $$ BEGIN \
     IF pg_is_in_recovery() THEN PERFORM pg_sleep(60); END IF; RETURN 7; END $$";

/// The name that the error complains of, where it says that there is no such node.
pub(crate) fn unknown_node(error: &sqlx::Error) -> Option<&str> {
    match Error::of(error) {
        Some(Error::UnknownNode(unknown)) => Some(&unknown.name),
        _ => None,
    }
}

pub(crate) fn is_closed(error: &sqlx::Error) -> bool {
    matches!(Error::of(error), Some(Error::Closed { .. }))
}

/// Carries connections from one address to a server, until it is dropped.
pub(crate) struct Forwarder {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwarder {
    fn over(listener: TcpListener, target: SocketAddr) -> Self {
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // Its end is the end of all that it carries.
            let mut links = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((mut client, _)) = accepted else { return };
                        links.spawn(async move {
                            let Ok(mut server) = TcpStream::connect(target).await else { return };
                            let _ = client.set_nodelay(true);
                            let _ = server.set_nodelay(true);
                            let _ = copy_bidirectional(&mut client, &mut server).await;
                        });
                    }
                    Some(_) = links.join_next() => {}
                }
            }
        });
        Self { addr, task }
    }
}

/// The cluster's nodes behind one port: the primary at 127.0.0.1, replicas at 127.0.0.2 and up.
pub(crate) async fn one_port(cluster: &Cluster) -> Vec<Forwarder> {
    'ports: for _ in 0..50 {
        let mut port = 0;
        let mut forwarders = Vec::new();
        for (last, server) in (1..).zip(cluster.nodes()) {
            let Ok(listener) = TcpListener::bind((ip(last), port)).await else { continue 'ports };
            port = listener.local_addr().unwrap().port();
            forwarders.push(Forwarder::over(listener, server.addr()));
        }
        return forwarders;
    }
    panic!("no port is free on all addresses");
}

/// 127.0.0.`last`.
pub(crate) fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// The names that the replicas of [`one_port`] have as nodes.
pub(crate) const FOUND: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];

/// What a registry answers.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    These(Vec<SocketAddr>),
    Fails,
    Hangs,
}

/// A resolver under the test's control.
#[derive(Clone)]
pub(crate) struct Registry {
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
    questions: Arc<Mutex<Vec<(String, u16)>>>,
}

impl Registry {
    pub(crate) fn new(says: Says) -> Self {
        let says = Arc::new(Mutex::new(says));
        Self { says, asked: Arc::default(), questions: Arc::default() }
    }

    /// Answers for this engine from now on.
    pub(crate) fn answer_for(&self, engine: &Engine) {
        let this = self.clone();
        engine.resolve_with(move |name, port| {
            let this = this.clone();
            async move {
                this.asked.fetch_add(1, Ordering::SeqCst);
                this.questions.lock().unwrap().push((name, port));
                let says = this.says.lock().unwrap().clone();
                match says {
                    Says::These(addresses) => Ok(addresses),
                    Says::Fails => Err(io::Error::other("the registry is out of order")),
                    Says::Hangs => std::future::pending().await,
                }
            }
        });
    }

    pub(crate) fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// The name and port of each question so far.
    pub(crate) fn questions(&self) -> Vec<(String, u16)> {
        self.questions.lock().unwrap().clone()
    }

    /// Waits until it was asked so often once more.
    pub(crate) async fn until_asked(&self, more: usize) {
        let wanted = self.asked.load(Ordering::SeqCst) + more;
        wait_until("the registry was asked again", async || {
            self.asked.load(Ordering::SeqCst) >= wanted
        })
        .await;
    }
}

/// The addresses of these of [`one_port`]'s forwarders.
pub(crate) fn at(forwarders: &[Forwarder], which: &[usize]) -> Says {
    Says::These(which.iter().map(|index| forwarders[*index].addr).collect())
}

/// An engine, not open, whose main node is the first forwarder, and whose replicas are what the
/// registry answers, each second.
pub(crate) fn discovering(
    forwarders: &[Forwarder],
    app: &str,
    registry: &Registry,
    change: impl FnOnce(&mut EngineConfig),
) -> Engine {
    let main = forwarders[0].addr;
    let mut discovery = flautino::DiscoveryConfig::new("replicas.test");
    discovery.interval = Duration::from_secs(1);
    let mut config = EngineConfig {
        main: node_at(format!("postgres://postgres@{main}/postgres"), app),
        extensions: vec![],
        discovery: Some(discovery),
        ..EngineConfig::default()
    };
    eager(&mut config);
    change(&mut config);
    let engine = Engine::new(config).unwrap();
    registry.answer_for(&engine);
    engine
}

/// A session at the level `Session` that was just served by that node.
pub(crate) async fn served_by(engine: &Engine, name: &str) -> Handle {
    let mut found = None;
    wait_until(&format!("{name} serves a session"), async || {
        let db = engine.handle().with_consistency(Consistency::Session);
        run(&db, COUNT).await.unwrap();
        let is_it = node_of(&db) == name;
        found = Some(db);
        is_it
    })
    .await;
    found.unwrap()
}

/// Three replicas in the rotation, of which the second shows one row and the others none.
pub(crate) async fn one_ahead(app: &str) -> (Cluster, Engine) {
    let cluster = with_table(cluster(3).await).await;
    let engine = open_with(&cluster, app, &[0, 1, 2], settings::frozen).await;
    until_served_by(&engine, &["r1", "r2", "r3"]).await;
    cluster.replica(0).pause_replay().await.unwrap();
    cluster.replica(2).pause_replay().await.unwrap();
    cluster.primary().execute(INSERT).await.unwrap();
    cluster.replica(1).catch_up_with(cluster.primary()).await.unwrap();
    (cluster, engine)
}
