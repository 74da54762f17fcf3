//! A connection that listens for notifications.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgNotification, PgPoolOptions};
use sqlx::{Connection, Executor, PgPool};

use super::server::Server;
use crate::error::{Error, timed_out};

/// How long the server may take to answer [`NodeListener::answers`].
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long telling the server that the connection closes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// sqlx's listener, which does not connect anew by itself: that is for whoever knows which node to connect to.
pub(crate) struct NodeListener {
    listener: PgListener,
    /// The pool of its one connection.
    pool: PgPool,
}

impl Server {
    /// Listens to these channels, over a connection of its own.
    pub(crate) async fn listen(&self, channels: &[String]) -> Result<NodeListener, sqlx::Error> {
        if self.sender.is_pooler {
            return Err(Error::SharedSession {
                node: self.name().to_string(),
                what: "`LISTEN`".to_owned(),
                instead: "listen through an engine whose node is the server itself",
            }
            .into());
        }
        let listening = async {
            let options = self.options().clone();
            let name = match options.get_application_name() {
                Some(name) => format!("{name} (listening)"),
                None => "listening".to_owned(),
            };
            let options = options.application_name(&name);
            // sqlx's pool would try again and again, and not say why it fails.
            self.connect_with(&options).await?.close().await?;
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_lazy_with(options);
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            // Servers before 14 have no such setting.
            let _ = listener.execute("SET idle_session_timeout = 0").await;
            listener.listen_all(channels.iter().map(String::as_str)).await?;
            Ok(NodeListener { listener, pool })
        };
        self.within(self.connect_timeout, listening).await
    }
}

impl NodeListener {
    /// The next notification; `None` when the connection is lost.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<PgNotification>, sqlx::Error> {
        self.listener.try_recv().await
    }

    /// Fails if the server does not answer any more. What it notifies meanwhile comes later.
    pub(crate) async fn answers(&mut self) -> Result<(), sqlx::Error> {
        let asking = tokio::time::timeout(ANSWER_TIMEOUT, self.listener.execute("SELECT 1")).await;
        asking.unwrap_or_else(|_| Err(timed_out("the server did not answer"))).map(drop)
    }

    /// Closes the connection, and tells the server so, if that answers.
    pub(crate) async fn close(self) {
        let Self { listener, pool } = self;
        let closing = pool.close();
        // It goes back to its pool, which closes it, in a task of sqlx's.
        drop(listener);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}
