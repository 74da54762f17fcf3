//! A connection that listens for notifications.

use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgListener, PgNotification, PgPoolOptions};

use super::server::Server;
use crate::error::{Error, timed_out};

/// How long the server may take to answer [`NodeListener::answers`].
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// sqlx's listener, which does not connect anew by itself: that is for whoever knows which node to connect to.
pub(crate) struct NodeListener(PgListener);

impl Server {
    /// Listens to these channels, over a connection of its own.
    pub(crate) async fn listen(&self, channels: &[String]) -> Result<NodeListener, sqlx::Error> {
        if self.sender.is_pooler {
            return Err(Error::SharedSession {
                node: self.name().to_string(),
                what: "`LISTEN`".to_owned(),
                instead: "listen past PgBouncer, on an engine of its own whose node is the server",
            }
            .into());
        }
        let listening = async {
            let options = self.options().clone();
            let name = match options.get_application_name() {
                Some(name) => format!("{name} (listening)"),
                None => "listening".to_owned(),
            };
            let pool =
                PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
            let pool = pool.connect_lazy_with(options.application_name(&name));
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen_all(channels.iter().map(String::as_str)).await?;
            Ok(NodeListener(listener))
        };
        self.within(self.connect_timeout, listening).await
    }
}

impl NodeListener {
    /// The next notification; `None` when the connection is lost.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<PgNotification>, sqlx::Error> {
        self.0.try_recv().await
    }

    /// Fails if the server does not answer any more. What it notifies meanwhile comes later.
    pub(crate) async fn answers(&mut self) -> Result<(), sqlx::Error> {
        let asking = tokio::time::timeout(ANSWER_TIMEOUT, self.0.execute("SELECT 1")).await;
        asking.unwrap_or_else(|_| Err(timed_out("the server did not answer"))).map(drop)
    }
}
