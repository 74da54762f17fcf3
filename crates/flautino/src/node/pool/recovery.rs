//! What becomes of a connection that is not known to be clean, while its permit is held.
//!
//! One whose session may have changed is washed. One on which a statement may still run has that
//! cancelled, over another connection, and what the server still sends is read to its end; then it is
//! washed. Only where this takes too long is the server's process ended.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::{Connection, PgConnection};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;
use tokio::sync::{Notify, oneshot};

use super::entry::{Entry, Idle, Permit};
use super::epoch::EndReason;
use super::{NodePool, close_entry};
use crate::backoff::Backoff;
use crate::error::timed_out;
use crate::logging::Values;
use crate::node::backend::{Backend, Stop};
use crate::node::server::Server;
use crate::sqlstate::{IN_FAILED_TRANSACTION, QUERY_CANCELED, has_code, server_keeps_session};

/// How long the end of a cancelled statement may take, and each of what comes after it: washing the
/// session, and ending the server's process where that fails.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a session may take to be reset before it is taken to be busy.
const WASH_FIRST: Duration = Duration::from_millis(200);
/// How long a statement that was abandoned goes on before it is cancelled.
const CANCEL_DELAY: Duration = Duration::from_millis(1);
/// How long a cancelled statement has until it is cancelled again; doubled each time.
const CANCEL_PAUSE: Duration = Duration::from_millis(20);
/// How long a connection of its own waits for further statements to cancel.
const LINGER: Duration = Duration::from_millis(500);

/// What has to be done before a connection is lent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// Nothing, but for the hook.
    Release,
    /// Its session may have changed.
    Wash,
    /// A statement may still run on it.
    Cancel,
}

/// Cancels statements at the server: all that are wanted at the time in one statement.
#[derive(Default)]
pub(super) struct Canceller {
    orders: Mutex<Orders>,
    arrived: Notify,
}

#[derive(Default)]
struct Orders {
    waiting: Vec<Order>,
    is_served: bool,
}

struct Order {
    backend: Backend,
    stop: Stop,
    done: oneshot::Sender<Ordered>,
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ordered {
    Done,
    NotSent,
    /// It was sent, and may be carried out yet.
    Unanswered,
}

/// Serves orders; where its task ends before its time, those who wait are told, and others begin anew.
struct Serving<'a> {
    canceller: &'a Canceller,
    is_over: bool,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut orders = self.canceller.orders.lock();
            orders.is_served = false;
            orders.waiting.clear();
        }
    }
}

impl NodePool {
    /// Resets the session of a connection, and takes it back.
    pub(super) fn wash(entry: Entry, permit: Permit) {
        if permit.pool.server.setup.owns_sessions() {
            return Self::finish(entry, permit, Finish::Wash);
        }
        // Behind a pooler no session is ours to reset, and in a pool made elsewhere a hook may have set
        // what a reset would take away.
        permit.pool.discard(entry);
    }

    /// Ends what may still run on a connection, and takes it back.
    pub(super) fn recover(entry: Entry, permit: Permit) {
        let is_down = entry.epoch.end_reason() == Some(EndReason::Down);
        if entry.place.backend.is_some() && !is_down {
            return Self::finish(entry, permit, Finish::Cancel);
        }
        permit.pool.discard(entry);
    }

    pub(super) fn finish(entry: Entry, permit: Permit, finish: Finish) {
        let pool = Arc::clone(&permit.pool);
        pool.spawn(finishing(entry, permit, finish));
    }

    /// Makes a connection as good as new. `Ok(false)` where that cannot be done.
    async fn restore(
        self: &Arc<Self>,
        entry: &mut Entry,
        finish: Finish,
    ) -> Result<bool, sqlx::Error> {
        let Entry { link, is_new, place, .. } = entry;
        if finish == Finish::Release {
            return self.hooks.released(link).await;
        }
        *is_new = true;
        let has_hook = self.hooks.after_release.is_some();
        // Where that takes long, something runs on it that was sent over the bare connection, and so was
        // not seen.
        if finish == Finish::Wash
            && !has_hook
            && let Ok(washed) = tokio::time::timeout(WASH_FIRST, wash(&self.server, link)).await
        {
            return washed;
        }
        if let Some(backend) = place.backend {
            self.cancel_and_drain(link, backend).await?;
        }
        if has_hook {
            // What the last cancel may still hit is this, and not the hook.
            drain(link).await?;
            if !self.hooks.released(link).await? {
                return Ok(false);
            }
        }
        wash(&self.server, link).await
    }

    /// Cancels the statement, and reads to its end. When this is through, no cancel is under way.
    async fn cancel_and_drain(
        self: &Arc<Self>,
        link: &mut PgConnection,
        backend: Backend,
    ) -> Result<(), sqlx::Error> {
        // A cancel that overtakes its statement does nothing, and many statements end by themselves now.
        tokio::time::sleep(CANCEL_DELAY).await;
        let mut drained = pin!(drain(link));
        let mut backoff = Backoff::new(CANCEL_PAUSE, RECOVERY_TIMEOUT);
        let mut is_certain = true;
        loop {
            // Not read meanwhile: as long as a large result flows, sqlx reads on without a pause, and
            // nothing else would run on this thread.
            is_certain &= self.order(backend, Stop::Statement).await != Ordered::Unanswered;
            match tokio::time::timeout(backoff.next_pause(), &mut drained).await {
                Ok(Ok(())) if !is_certain => {
                    return Err(timed_out("a cancel that was not answered may come late"));
                }
                Ok(result) => return result,
                Err(_) => {}
            }
        }
    }

    /// Has the server cancel what a process of its runs, or end the process.
    async fn order(self: &Arc<Self>, backend: Backend, stop: Stop) -> Ordered {
        let (done, is_done) = oneshot::channel();
        let is_first = {
            let mut orders = self.canceller.orders.lock();
            orders.waiting.push(Order { backend, stop, done });
            !std::mem::replace(&mut orders.is_served, true)
        };
        self.canceller.arrived.notify_one();
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

async fn finishing(mut entry: Entry, permit: Permit, finish: Finish) {
    let pool = Arc::clone(&permit.pool);
    let restoring = pool.restore(&mut entry, finish);
    let timeout = match finish {
        Finish::Cancel | Finish::Wash => RECOVERY_TIMEOUT * 2,
        Finish::Release => pool.config.acquire_timeout,
    };
    let outcome = tokio::time::timeout(timeout, restoring).await;
    match &outcome {
        Ok(Ok(true)) => return pool.take_back(entry),
        Ok(Ok(false)) => return close_entry(entry).await,
        Ok(Err(_)) | Err(_) => {
            tracing::debug!(node = %pool.name(), ?outcome, "a connection could not be made as new and is closed");
        }
    }
    let hangs = match &outcome {
        Ok(Err(error)) => server_keeps_session(error),
        _ => true,
    };
    if let (Some(backend), true) = (entry.place.backend, hangs) {
        // Its place is free when the server's process is gone, so that clients who leave in numbers do
        // not fill the server.
        let _ = tokio::time::timeout(RECOVERY_TIMEOUT, pool.order(backend, Stop::Process)).await;
    }
    pool.discard(entry);
}

/// Reads the rest of what the server sends, errors of the statement included.
async fn drain(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    loop {
        match connection.ping().await {
            Err(err) if server_keeps_session(&err) => {}
            result => return result,
        }
    }
}

/// Resets the session. `Ok(false)` where it cannot be reset.
async fn wash(server: &Server, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // A transaction that was dropped open: its `ROLLBACK` is the first thing to send.
    while PgTransactionManager::get_transaction_depth(connection) > 0 {
        let entry = server.sender.logger.sending(server.name(), "ROLLBACK", Values::None, None);
        let rolled_back = PgTransactionManager::rollback(connection).await;
        entry.finish(&rolled_back);
        rolled_back?;
    }
    let mut may_roll_back = true;
    let mut cancelled = 0;
    loop {
        match server.setup.wash(connection, &server.sender).await {
            // The last cancel hit this. Again and again, it is a time limit of the session's own.
            Err(err) if cancelled < 2 && has_code(&err, QUERY_CANCELED) => {
                cancelled += 1;
            }
            // A transaction that sqlx does not count: its `BEGIN` was dropped half-way, or was sent as text.
            washed if may_roll_back && is_in_transaction(&washed) => {
                may_roll_back = false;
                server.sender.send(connection, "ROLLBACK".to_owned()).await?;
            }
            washed => return washed,
        }
    }
}

/// Whether a session could not be reset because a transaction is open on it, or failed on it.
fn is_in_transaction(washed: &Result<bool, sqlx::Error>) -> bool {
    match washed {
        Ok(is_reset) => !is_reset,
        Err(error) => has_code(error, IN_FAILED_TRANSACTION),
    }
}

impl Canceller {
    /// All that are wanted now; `None` when nobody came for a while, and nobody is served then.
    async fn next(&self, patience: Duration) -> Option<Vec<Order>> {
        loop {
            let arrived = self.arrived.notified();
            let batch = std::mem::take(&mut self.orders.lock().waiting);
            if !batch.is_empty() {
                return Some(batch);
            }
            if tokio::time::timeout(patience, arrived).await.is_err() {
                let mut orders = self.orders.lock();
                if orders.waiting.is_empty() {
                    orders.is_served = false;
                    return None;
                }
            }
        }
    }
}

/// Carries out orders, until none comes for a while.
async fn serve_orders(pool: Arc<NodePool>) {
    let mut serving = Serving { canceller: &pool.canceller, is_over: false };
    // Beside the pool, made where no connection rests.
    let mut own: Option<PgConnection> = None;
    loop {
        let patience = if own.is_some() { LINGER } else { Duration::ZERO };
        let Some(mut batch) = pool.canceller.next(patience).await else { break };
        // Not for those who gave up meanwhile, nor to a connection that left the pool.
        batch.retain(|order| {
            !order.done.is_closed() && pool.state.lock().backends.contains(&order.backend)
        });
        let mut sent = false;
        let carrying_out = carry_out(&pool, &batch, &mut own, &mut sent);
        let ordered = match tokio::time::timeout(RECOVERY_TIMEOUT, carrying_out).await {
            Ok(Ok(ordered)) => ordered,
            outcome => {
                let orders = batch.len();
                tracing::debug!(node = %pool.name(), ?outcome, orders, "abandoned statements could not be cancelled");
                if sent { Ordered::Unanswered } else { Ordered::NotSent }
            }
        };
        for order in batch {
            // Nobody waits any more where this fails.
            let _ = order.done.send(ordered);
        }
    }
    serving.is_over = true;
    if let Some(connection) = own {
        let _ = tokio::time::timeout(RECOVERY_TIMEOUT, connection.close()).await;
    }
}

/// Over a connection that rests in the pool, or over one beside it.
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
