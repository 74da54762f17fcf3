//! The cluster, its table, and what its primary sees of the apps.

use std::net::SocketAddr;
use std::time::Duration;

use flautino_cluster::Cluster;
use sqlx::PgConnection;

use crate::Broken;
use crate::app::NAME;
use crate::child::{Child, PATIENCE};
use crate::variant::Variant;

/// How many rows there are to read.
pub(crate) const ROWS: i32 = 1000;

const TABLE: &str = "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); \
                     INSERT INTO counters (id) SELECT generate_series(0, 999)";
const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity \
                        WHERE starts_with(application_name, $1)";
const ACTIVE: &str = "SELECT count(*) FROM pg_stat_activity \
                      WHERE application_name = $1 AND state = 'active'";
/// How often what is waited for is looked at.
const TICK: Duration = Duration::from_millis(5);

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
}

impl World {
    /// Starts the cluster, and fills the table.
    pub(crate) async fn start() -> Result<Self, Broken> {
        // Room for all apps at once. Connections are logged, to be counted.
        let cluster = Cluster::builder()
            .replicas(2)
            .setting("max_connections", "200")
            .setting("log_connections", "on")
            .start()
            .await?;
        cluster.primary().execute(TABLE).await?;
        // So that no autovacuum does it in the middle of a round.
        cluster.primary().execute("VACUUM ANALYZE counters").await?;
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
    pub(crate) async fn app(&self, variant: Variant, pool: u32) -> Result<App, Broken> {
        let url = |node: &flautino_cluster::Node| {
            format!("{}?sslmode=disable&application_name={NAME}", node.url())
        };
        let mut arguments = vec!["app".to_owned(), variant.name(), format!("--pool={pool}")];
        arguments.push(format!("--primary={}", url(self.cluster.primary())));
        if variant == Variant::FlautinoTwo {
            let replicas = self.cluster.nodes().skip(1);
            arguments.extend(replicas.map(|node| format!("--replica={}", url(node))));
        }
        let mut child = Child::start(&arguments)?;
        let address = child.answer(PATIENCE).await?;
        Ok(App { variant, address, child })
    }

    /// How many processes the primary has started for connections so far.
    pub(crate) fn connections(&self) -> u32 {
        let log = self.cluster.primary().log();
        u32::try_from(log.matches("connection received: ").count()).unwrap_or(u32::MAX)
    }

    /// Someone who looks at the primary's sessions.
    pub(crate) async fn watcher(&self) -> Result<Watcher, Broken> {
        Ok(Watcher { connection: self.cluster.primary().connect().await? })
    }
}

/// Looks at the primary's sessions, over one of its own which it does not count.
#[derive(Debug)]
pub(crate) struct Watcher {
    connection: PgConnection,
}

impl Watcher {
    /// The work's result, and how many sessions of apps there were at most meanwhile, those of
    /// monitors counted too.
    pub(crate) async fn most_sessions<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<(T, u32), Broken> {
        let mut work = std::pin::pin!(work);
        let mut most = 0;
        loop {
            let done = tokio::time::timeout(TICK, &mut work).await;
            most = most.max(self.count(SESSIONS).await?);
            if let Ok(done) = done {
                return Ok((done, most));
            }
        }
    }

    /// Waits until no app has a session.
    pub(crate) async fn until_alone(&mut self) -> Result<(), Broken> {
        self.until_none(SESSIONS).await
    }

    /// Waits until no app has a statement under way.
    pub(crate) async fn until_idle(&mut self) -> Result<(), Broken> {
        self.until_none(ACTIVE).await
    }

    async fn until_none(&mut self, query: &'static str) -> Result<(), Broken> {
        let wait = async {
            while self.count(query).await? > 0 {
                tokio::time::sleep(TICK).await;
            }
            Ok(())
        };
        let bounded = tokio::time::timeout(PATIENCE, wait).await;
        bounded.map_err(|_| format!("apps are still busy at the server after {PATIENCE:?}"))?
    }

    async fn count(&mut self, query: &'static str) -> Result<u32, Broken> {
        let query = sqlx::query_scalar::<_, i64>(query).bind(NAME);
        Ok(query.fetch_one(&mut self.connection).await?.try_into()?)
    }
}
