//! Statements to a node: the user's, and those that wait for something.

use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection};

use crate::address::connect_options;
use crate::error::ClusterError;
use crate::node::Node;
use crate::wait::POLL_INTERVAL;

impl Node {
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
        self.connect_to(self.port(), "connect").await
    }

    /// Runs statements, several if they are separated by semicolons, over a connection of their own.
    ///
    /// ```no_run
    /// # async fn example(node: &flautino_cluster::Node) -> Result<(), flautino_cluster::ClusterError> {
    /// node.execute("CREATE TABLE notes (title text); INSERT INTO notes VALUES ('first')").await?;
    /// # Ok(()) }
    /// ```
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
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let done = connection.execute(sql).await;
        done.map_err(|source| self.sql_error("run the statements", source))?;
        Ok(())
    }
}

impl Node {
    /// Waits until a query, over one connection to `port`, returns true.
    pub(crate) async fn until(
        &self,
        port: u16,
        step: &str,
        sql: &'static str,
        argument: Option<&str>,
    ) -> Result<(), ClusterError> {
        let wait = async {
            let mut connection = self.connect_to(port, step).await?;
            loop {
                let mut query = sqlx::query_scalar::<_, bool>(sql);
                if let Some(argument) = argument {
                    query = query.bind(argument);
                }
                let answer = query.fetch_one(&mut connection).await;
                if answer.map_err(|source| self.sql_error(step, source))? {
                    return Ok(());
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let bounded = tokio::time::timeout(self.timeout(), wait).await;
        bounded.unwrap_or_else(|_| Err(self.timed_out(step)))
    }

    /// One value from this node, bounded in time.
    pub(crate) async fn ask<T>(&self, step: &str, sql: &'static str) -> Result<T, ClusterError>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let ask = async {
            let mut connection = self.connect().await?;
            let value = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
            value.map_err(|source| self.sql_error(step, source))
        };
        let bounded = tokio::time::timeout(self.timeout(), ask).await;
        bounded.unwrap_or_else(|_| Err(self.timed_out(step)))
    }

    async fn connect_to(&self, port: u16, step: &str) -> Result<PgConnection, ClusterError> {
        let options = connect_options(port).disable_statement_logging();
        match tokio::time::timeout(self.timeout(), options.connect()).await {
            Ok(connected) => connected.map_err(|source| self.sql_error(step, source)),
            Err(_) => Err(self.timed_out(step)),
        }
    }
}
