//! How a pool signals the backends behind its connections, to cancel statements or to end sessions.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::NodePool;
use super::managed::{Idle, ManagedConnection};
use super::signal_queue::{Delivery, SignalRequest};
use crate::node::backend::{Backend, Signal};
use crate::sqlstate::{server_ended_session, server_keeps_session};

/// How long sending a batch of signals may take.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection that was made for signals is kept for further ones.
const LINGER: Duration = Duration::from_millis(500);

impl NodePool {
    /// Has the server signal the backend of one of the pool's connections.
    pub(super) async fn signal(self: &Arc<Self>, backend: Backend, signal: Signal) -> Delivery {
        let (delivered, needs_worker) = self.signal_queue.push(backend, signal);
        if needs_worker {
            self.spawn(send_signals(Arc::clone(self)));
        }
        delivered.await.unwrap_or(Delivery::Unknown)
    }

    /// Takes the idle connection that was used last, if it is warm or answers.
    async fn pop_idle_that_answers(&self) -> Option<Box<ManagedConnection>> {
        let Idle { mut managed, since } = self.state.lock().idle.pop()?;
        if self.is_warm(since) || self.is_alive(&mut managed, since).await {
            return Some(managed);
        }
        self.discard(*managed);
        None
    }

    /// Cancels whatever still runs on the pool's connections, whoever holds them.
    pub(crate) async fn cancel_all(self: &Arc<Self>) {
        let backends: Vec<_> = self.state.lock().backends.iter().copied().collect();
        let signals = backends.into_iter().map(|backend| self.signal(backend, Signal::Cancel));
        futures_util::future::join_all(signals).await;
    }
}

/// Sends what is in the queue, until it is empty for a while.
async fn send_signals(pool: Arc<NodePool>) {
    let mut worker = pool.signal_queue.worker();
    // A connection outside the pool, made when the pool has no idle one.
    let mut own: Option<PgConnection> = None;
    loop {
        let linger = if own.is_some() { LINGER } else { Duration::ZERO };
        let Some(mut batch) = worker.next(linger).await else { break };
        // A connection may have left the pool meanwhile, so that its backend serves somebody else.
        batch.retain(|request| {
            request.is_wanted() && pool.state.lock().backends.contains(&request.backend)
        });
        let mut sent = false;
        let sending = send_batch(&pool, &batch, &mut own, &mut sent);
        let delivery = match tokio::time::timeout(SIGNAL_TIMEOUT, sending).await {
            Ok(Ok(delivery)) => delivery,
            outcome => {
                let signals = batch.len();
                tracing::debug!(node = %pool.name(), ?outcome, signals, "backends could not be signalled");
                if sent { Delivery::Unknown } else { Delivery::NotSent }
            }
        };
        for request in batch {
            request.report(delivery);
        }
    }
    if let Some(connection) = own {
        let _ = tokio::time::timeout(SIGNAL_TIMEOUT, connection.close()).await;
    }
}

/// Sends the signals in one statement, over an idle connection of the pool, else over `own`. `sent` is
/// set before anything is sent, so that the caller knows it when this is dropped half-way.
async fn send_batch(
    pool: &Arc<NodePool>,
    batch: &[SignalRequest],
    own: &mut Option<PgConnection>,
    sent: &mut bool,
) -> Result<Delivery, sqlx::Error> {
    if batch.is_empty() {
        return Ok(Delivery::NotSent);
    }
    let server = &pool.server;
    let signals = || batch.iter().map(|request| (request.backend, request.signal));
    let mut delivery = Delivery::Delivered;
    if own.is_none()
        && let Some(mut managed) = pool.pop_idle_that_answers().await
    {
        *sent = true;
        match server.sender.signal_backends(&mut managed.connection, signals()).await {
            Ok(()) => {
                pool.offer(managed);
                return Ok(delivery);
            }
            // A hook may have set a role on it that has no right to signal.
            Err(error) if server_keeps_session(&error) => pool.offer(managed),
            Err(error) => {
                // A session that the server has ended sends no signal any more; one that was only cut off
                // may.
                if !server_ended_session(&error) {
                    delivery = Delivery::Unknown;
                }
                pool.discard(*managed);
            }
        }
    }
    let mut connection = match own.take() {
        Some(connection) => connection,
        None => server.connect_beside("flautino cancel").await?,
    };
    *sent = true;
    server.sender.signal_backends(&mut connection, signals()).await?;
    *own = Some(connection);
    Ok(delivery)
}
