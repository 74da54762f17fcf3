//! One member: a Patroni, and the PostgreSQL that it runs.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection};

use super::instance::Instance;
use super::shared::Shared;
use crate::address::{connect_options, url};
use crate::error::{ClusterError, tail};
use crate::wait::{POLL_INTERVAL, blocking};

/// A Patroni and its PostgreSQL. Its address stays the same, and stays taken, while it is down.
pub struct Member(Arc<Instance>);

impl Member {
    /// `p1`, `p2`….
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Where its PostgreSQL listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.0.port()).into()
    }

    /// `postgres://postgres@127.0.0.1:PORT/postgres`: a superuser, without a password.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.0.port(), "postgres")
    }

    /// Where its Patroni answers, as `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.rest_port())
    }

    /// Whether its Patroni runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.is_running()
    }

    /// A new connection of the superuser to the database `postgres`.
    ///
    /// # Errors
    ///
    /// When the server is down, or does not answer within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the connection is closed.
    pub async fn connect(&self) -> Result<PgConnection, ClusterError> {
        let options = connect_options(self.0.port()).disable_statement_logging();
        let bounded = tokio::time::timeout(self.timeout(), options.connect()).await;
        let connected = bounded.map_err(|_| self.timed_out("connect"))?;
        connected.map_err(|source| self.sql_error("connect", source))
    }

    /// Runs statements, several if they are separated by semicolons, over a connection of their own.
    ///
    /// # Errors
    ///
    /// When the server is down or refuses a statement. It is not bounded in time.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the connection is closed; the server may still finish the statements.
    pub async fn execute(&self, sql: &str) -> Result<(), ClusterError> {
        let mut connection = self.connect().await?;
        let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
        done.map(drop).map_err(|source| self.sql_error("run the statements", source))
    }

    /// Starts Patroni, which starts PostgreSQL, and waits until that takes connections. One that runs already is
    /// left as it is.
    ///
    /// # Errors
    ///
    /// When it ends, or PostgreSQL does not come up within the cluster's timeout; with the end of Patroni's log.
    ///
    /// # Cancellation
    ///
    /// It may be started all the same.
    pub async fn start(&self) -> Result<(), ClusterError> {
        self.0.start()?;
        let deadline = Instant::now() + self.timeout();
        while !self.0.is_up() {
            if let Some(status) = self.0.ended() {
                let (node, status) = (self.name().to_owned(), status.to_string());
                return Err(ClusterError::Exited { node, status, log: self.log_end() });
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("accept connections"));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Ends Patroni as its service does, with SIGTERM: it stops PostgreSQL, and a leader hands the lead over. Waits
    /// until all is done, and kills what is not within the cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, it ends in its own time.
    pub async fn stop(&self) {
        self.0.terminate();
        let deadline = Instant::now() + self.timeout();
        while self.is_running() && Instant::now() < deadline {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.kill().await;
    }

    /// Kills Patroni and PostgreSQL with SIGKILL, as when the machine loses its power: nothing is handed over, and
    /// the others find out when the leader's time (`ttl`) has passed.
    ///
    /// # Cancellation
    ///
    /// It is killed all the same.
    pub async fn kill(&self) {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.kill()).await;
    }
}

impl Member {
    pub(super) fn new(number: usize, shared: &Arc<Shared>) -> Result<Self, ClusterError> {
        Ok(Self(Arc::new(Instance::new(number, shared)?)))
    }

    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout()
    }

    /// Whether it is a primary.
    pub(super) async fn takes_writes(&self) -> bool {
        self.holds("SELECT NOT pg_is_in_recovery()", &[]).await
    }

    /// Whether it streams to all of these.
    pub(super) async fn streams_to(&self, names: &[String]) -> bool {
        let sql = "SELECT count(DISTINCT application_name) = cardinality($1::text[]) \
                   FROM pg_stat_replication WHERE state = 'streaming' AND application_name = ANY ($1)";
        self.holds(sql, &[names]).await
    }

    /// The end of what Patroni has said.
    pub(super) fn log_end(&self) -> String {
        format!("  {}:\n{}", self.name(), tail(&self.0.log_path()))
    }

    /// Ends Patroni at once, without a runtime.
    pub(super) fn end_patroni(&self) {
        self.0.end_patroni();
    }

    async fn holds(&self, sql: &'static str, names: &[&[String]]) -> bool {
        let ask = async {
            let mut query = sqlx::query_scalar::<_, bool>(sql);
            for names in names {
                query = query.bind(*names);
            }
            query.fetch_one(&mut self.connect().await.ok()?).await.ok()
        };
        tokio::time::timeout(self.timeout(), ask).await.ok().flatten().unwrap_or(false)
    }

    fn sql_error(&self, step: &str, source: sqlx::Error) -> ClusterError {
        ClusterError::Sql { node: self.name().to_owned(), step: step.to_owned(), source }
    }

    fn timed_out(&self, step: &str) -> ClusterError {
        let (node, step) = (self.name().to_owned(), step.to_owned());
        ClusterError::Timeout { node, step, waited: self.timeout(), log: self.log_end() }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.end_patroni();
        self.0.end_server();
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.name())
            .field("addr", &self.addr())
            .field("api", &self.api())
            .field("is_running", &self.is_running())
            .finish_non_exhaustive()
    }
}
