//! How the server is made to stop what runs on the pool's connections.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::NodePool;
use super::canceller::{Order, Ordered};
use super::entry::Idle;
use crate::node::backend::{Backend, Stop};
use crate::sqlstate::server_keeps_session;

/// How long the server may take to carry out orders.
const ORDER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection beside the pool waits for further orders.
const LINGER: Duration = Duration::from_millis(500);

impl NodePool {
    /// Has the server cancel what a process of its runs, or end the process.
    pub(super) async fn order(self: &Arc<Self>, backend: Backend, stop: Stop) -> Ordered {
        let (is_done, is_first) = self.canceller.push(backend, stop);
        if is_first {
            self.spawn(serve_orders(Arc::clone(self)));
        }
        is_done.await.unwrap_or(Ordered::Unanswered)
    }

    /// Cancels whatever still runs on the pool's connections, whoever holds them.
    pub(crate) async fn cancel_all(self: &Arc<Self>) {
        let backends: Vec<_> = self.state.lock().backends.iter().copied().collect();
        let orders = backends.into_iter().map(|backend| self.order(backend, Stop::Statement));
        futures_util::future::join_all(orders).await;
    }
}

/// Carries out orders, until none comes for a while.
async fn serve_orders(pool: Arc<NodePool>) {
    let mut serving = pool.canceller.serve();
    // A connection beside the pool, which is made when none of the pool rests.
    let mut own: Option<PgConnection> = None;
    loop {
        let patience = if own.is_some() { LINGER } else { Duration::ZERO };
        let Some(mut batch) = serving.next(patience).await else { break };
        // Nobody may wait any more, or the connection may have left the pool, and its process may serve
        // somebody else.
        batch.retain(|order| {
            order.is_wanted() && pool.state.lock().backends.contains(&order.backend)
        });
        let mut sent = false;
        let carrying_out = carry_out(&pool, &batch, &mut own, &mut sent);
        let ordered = match tokio::time::timeout(ORDER_TIMEOUT, carrying_out).await {
            Ok(Ok(ordered)) => ordered,
            outcome => {
                let orders = batch.len();
                tracing::debug!(node = %pool.name(), ?outcome, orders, "abandoned statements could not be cancelled");
                if sent { Ordered::Unanswered } else { Ordered::NotSent }
            }
        };
        for order in batch {
            order.tell(ordered);
        }
    }
    if let Some(connection) = own {
        let _ = tokio::time::timeout(ORDER_TIMEOUT, connection.close()).await;
    }
}

/// Carries them out in one statement, over a connection that rests in the pool or over one beside it.
/// `sent` is set before it is sent.
async fn carry_out(
    pool: &Arc<NodePool>,
    batch: &[Order],
    own: &mut Option<PgConnection>,
    sent: &mut bool,
) -> Result<Ordered, sqlx::Error> {
    if batch.is_empty() {
        return Ok(Ordered::NotSent);
    }
    let server = &pool.server;
    let orders = || batch.iter().map(|order| (order.backend, order.stop));
    let mut ordered = Ordered::Done;
    if own.is_none() {
        let idle = pool.state.lock().idle.pop();
        if let Some(Idle { mut entry, .. }) = idle {
            *sent = true;
            match server.sender.stop_backends(&mut entry.link, orders()).await {
                Ok(()) => {
                    pool.take_back(entry);
                    return Ok(ordered);
                }
                // A hook may have set a role there that has no right to do this.
                Err(error) if server_keeps_session(&error) => pool.take_back(entry),
                Err(_) => {
                    ordered = Ordered::Unanswered;
                    pool.discard(entry);
                }
            }
        }
    }
    let mut connection = match own.take() {
        Some(connection) => connection,
        None => server.connect_beside("flautino cancel").await?,
    };
    *sent = true;
    server.sender.stop_backends(&mut connection, orders()).await?;
    *own = Some(connection);
    Ok(ordered)
}
