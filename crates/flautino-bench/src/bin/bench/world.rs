//! The cluster, its table, the apps, and their sessions at the primary.

use std::net::SocketAddr;
use std::time::Duration;

use flautino_cluster::{Cluster, Node};
use sqlx::PgConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::child::{CHILD_TIMEOUT, Child};
use crate::error::BoxError;
use crate::meter::{APPLICATION_NAME, Meter};
use crate::progress::Progress;
use crate::variant::Variant;

/// With this the names of replicas begin in flautino's apps.
pub(crate) const REPLICA: &str = "replica_";
/// How many rows there are, and at most how many clients, so that each can write rows of its own.
pub(crate) const ROWS: i32 = 10_000;
/// How many of them `list` reads at once.
pub(crate) const LISTED: i32 = 100;

/// Pages are half empty, so that a new version of a row finds room beside the old one.
const TABLES: &str = "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0) \
                      WITH (fillfactor = 50); \
                      CREATE TABLE totals (id int PRIMARY KEY, n int NOT NULL DEFAULT 0) \
                      WITH (fillfactor = 50); \
                      INSERT INTO counters (id) SELECT generate_series(0, 9999); \
                      INSERT INTO totals (id) SELECT generate_series(0, 9999)";
const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity \
                        WHERE starts_with(application_name, $1)";
const ACTIVE: &str = "SELECT count(*) FROM pg_stat_activity \
                      WHERE application_name = $1 AND state = 'active'";
/// How often a condition that is waited for is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A primary and two replicas that stream from it.
#[derive(Debug)]
pub(crate) struct World {
    cluster: Cluster,
}

/// An app process that serves one variant.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) variant: Variant,
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    /// What it reaches its servers through, if its statements are counted.
    pub(crate) meters: Vec<Meter>,
    /// The task that looks at the status page, if somebody does.
    _onlooker: JoinSet<()>,
}

/// Runs the work on a cluster of its own, which is stopped in the end, whatever comes of it. `rounds` are
/// all that the progress counts.
pub(crate) async fn on_a_cluster(
    rounds: u64,
    work: impl AsyncFnOnce(&World, &Progress) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let world = World::start().await?;
    let progress = Progress::start(rounds)?;
    let outcome = Box::pin(work(&world, &progress)).await;
    progress.end();
    world.stop().await;
    outcome
}

impl World {
    /// Starts the cluster, and fills the tables.
    pub(crate) async fn start() -> Result<Self, BoxError> {
        // All apps must find room at once. Connections are counted in the log.
        let cluster = Cluster::builder()
            .replicas(2)
            .setting("max_connections", "400")
            .setting("log_connections", "on")
            // Else its log grows by as much as is written.
            .setting("max_wal_size", "256MB")
            .setting("wal_keep_size", "128MB")
            // It would come in the middle of a round. Old versions of rows are removed without it, since no
            // index knows them.
            .setting("autovacuum", "off")
            .start()
            .await?;
        cluster.primary().execute(TABLES).await?;
        for table in ["counters", "totals"] {
            cluster.primary().execute(&format!("VACUUM ANALYZE {table}")).await?;
        }
        for number in 0..2 {
            cluster.replica(number).catch_up_with(cluster.primary()).await?;
        }
        Ok(Self { cluster })
    }

    /// Stops all servers, and removes them.
    pub(crate) async fn stop(self) {
        self.cluster.stop().await;
    }

    /// Starts an app whose pool has at most so many connections to a server.
    pub(crate) async fn app(&self, variant: Variant, pool: u32) -> Result<App, BoxError> {
        let addresses = self.nodes(variant).map(Node::addr).collect();
        start(variant, pool, addresses, Vec::new()).await
    }

    /// The same, with what it sends to the servers counted.
    pub(crate) async fn metered_app(&self, variant: Variant, pool: u32) -> Result<App, BoxError> {
        let mut meters = Vec::new();
        for node in self.nodes(variant) {
            meters.push(Meter::start(node.addr()).await?);
        }
        let addresses = meters.iter().map(|meter| meter.address).collect();
        start(variant, pool, addresses, meters).await
    }

    /// The nodes that this variant uses, the primary first.
    fn nodes(&self, variant: Variant) -> impl Iterator<Item = &Node> {
        self.cluster.nodes().take(if variant.has_replicas() { 3 } else { 1 })
    }

    /// Lets the two replicas pass for this many: each has a user of its own, for whom the server was started
    /// at another time. By that flautino tells servers apart.
    pub(crate) async fn share_servers(&self, replicas: u32) -> Result<(), BoxError> {
        let one = |number| {
            format!(
                "CREATE ROLE node_{number} SUPERUSER LOGIN; CREATE SCHEMA node_{number}; \
                 CREATE FUNCTION node_{number}.pg_postmaster_start_time() RETURNS timestamptz \
                 STABLE LANGUAGE sql AS $$ SELECT timestamptz '2020-01-01' + interval '{number} s' $$; \
                 ALTER ROLE node_{number} SET search_path = node_{number}, pg_catalog, public; "
            )
        };
        let primary = self.cluster.primary();
        primary.execute(&(1..=replicas).map(one).collect::<String>()).await?;
        for number in 0..2 {
            self.cluster.replica(number).catch_up_with(primary).await?;
        }
        Ok(())
    }

    /// How an app reaches the primary, and so many of the replicas of [`share_servers`](Self::share_servers).
    pub(crate) fn urls(&self, replicas: u32) -> Vec<String> {
        let servers: Vec<_> = self.cluster.nodes().map(Node::addr).collect();
        let replicas = (1..=replicas).zip(servers[1..].iter().cycle());
        let replicas = replicas.map(|(number, server)| url(&format!("node_{number}"), *server));
        std::iter::once(url("postgres", servers[0])).chain(replicas).collect()
    }

    /// How many server processes the primary has started for connections so far.
    pub(crate) fn connections(&self) -> u32 {
        let log = self.cluster.primary().log();
        u32::try_from(log.matches("connection received: ").count()).unwrap_or(u32::MAX)
    }

    /// A watcher of the primary's sessions.
    pub(crate) async fn watcher(&self) -> Result<Watcher, BoxError> {
        Ok(Watcher { connection: self.cluster.primary().connect().await? })
    }
}

/// How an app reaches the server at this address, as this user.
fn url(user: &str, address: SocketAddr) -> String {
    format!(
        "postgres://{user}@{address}/postgres?sslmode=disable&application_name={APPLICATION_NAME}"
    )
}

/// Starts an app over the primary and the replicas at these addresses, in this order.
async fn start(
    variant: Variant,
    pool: u32,
    addresses: Vec<SocketAddr>,
    meters: Vec<Meter>,
) -> Result<App, BoxError> {
    let mut arguments = vec!["app".to_owned(), variant.name(), format!("--pool={pool}")];
    arguments.extend(addresses.iter().enumerate().map(|(number, address)| {
        let role = if number == 0 { "primary" } else { "replica" };
        format!("--{role}={}", url("postgres", *address))
    }));
    let mut child = Child::start(&arguments)?;
    let address = child.answer(CHILD_TIMEOUT).await?;
    let mut onlooker = JoinSet::new();
    if variant == Variant::FlautinoWatched {
        let page = look_at_status(address).await?;
        onlooker.spawn(page);
    }
    Ok(App { variant, address, child, meters, _onlooker: onlooker })
}

/// Opens the stream of the status page, and reads it as a browser does, until it ends.
async fn look_at_status(app: SocketAddr) -> Result<impl Future<Output = ()>, BoxError> {
    let mut stream = TcpStream::connect(app).await?;
    let request = format!("GET /status/events HTTP/1.1\r\nhost: {app}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 64 * 1024];
    let read = stream.read(&mut buffer).await?;
    if !buffer[..read].starts_with(b"HTTP/1.1 200 OK") {
        return Err("the app has no status page".into());
    }
    Ok(async move { while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {} })
}

/// Counts the apps' sessions at the primary, over a session of its own.
#[derive(Debug)]
pub(crate) struct Watcher {
    connection: PgConnection,
}

impl Watcher {
    /// Returns the work's result, and the largest number of sessions of apps meanwhile, those of
    /// monitors included.
    pub(crate) async fn max_sessions<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<(T, u32), BoxError> {
        let mut work = std::pin::pin!(work);
        let mut max = 0;
        loop {
            let done = tokio::time::timeout(POLL_INTERVAL, &mut work).await;
            max = max.max(self.count(SESSIONS).await?);
            if let Ok(done) = done {
                return Ok((done, max));
            }
        }
    }

    /// Waits until no app has a session.
    pub(crate) async fn until_alone(&mut self) -> Result<(), BoxError> {
        self.until_none(SESSIONS).await
    }

    /// Waits until no app has a statement under way.
    pub(crate) async fn until_idle(&mut self) -> Result<(), BoxError> {
        self.until_none(ACTIVE).await
    }

    async fn until_none(&mut self, query: &'static str) -> Result<(), BoxError> {
        let wait = async {
            while self.count(query).await? > 0 {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            Ok(())
        };
        let bounded = tokio::time::timeout(CHILD_TIMEOUT, wait).await;
        bounded.map_err(|_| format!("apps are still busy at the server after {CHILD_TIMEOUT:?}"))?
    }

    async fn count(&mut self, query: &'static str) -> Result<u32, BoxError> {
        let query = sqlx::query_scalar::<_, i64>(query).bind(APPLICATION_NAME);
        Ok(query.fetch_one(&mut self.connection).await?.try_into()?)
    }
}
