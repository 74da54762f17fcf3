//! What becomes of a connection that is not known to be clean, while its permit is held.
//!
//! One whose session may have changed is reset. One on which a statement may still run has that
//! cancelled, over another connection, and what the server still sends is read to its end; then it is
//! reset. Only where this takes too long is the server's process ended.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;

use super::canceller::Ordered;
use super::entry::Entry;
use super::epoch::EndReason;
use super::permit::Permit;
use super::{NodePool, close_entry};
use crate::backoff::Backoff;
use crate::error::timed_out;
use crate::logging::Values;
use crate::node::backend::{Backend, Stop};
use crate::node::server::Server;
use crate::sqlstate::{IN_FAILED_TRANSACTION, QUERY_CANCELED, has_code, server_keeps_session};

/// How long the end of a cancelled statement may take, and each of what comes after it: resetting the
/// session, and ending the server's process where that fails.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a session may take to be reset before it is assumed that a statement runs on it.
const QUICK_RESET_TIMEOUT: Duration = Duration::from_millis(200);
/// How long a statement that was abandoned goes on before it is cancelled.
const CANCEL_DELAY: Duration = Duration::from_millis(1);
/// How long a cancelled statement has until it is cancelled again; doubled each time.
const CANCEL_PAUSE: Duration = Duration::from_millis(20);
/// What has to be done before a connection is lent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Only the app's hook has to run.
    Hook,
    /// Its session may have changed.
    Reset,
    /// A statement may still run on it.
    Cancel,
}

impl NodePool {
    /// Resets the session of a connection, and takes it back.
    pub(super) fn reset(entry: Entry, permit: Permit) {
        if permit.pool.server.setup.owns_sessions() {
            return Self::start_recovery(entry, permit, Recovery::Reset);
        }
        // Behind a pooler no session is ours to reset, and in a pool made elsewhere a hook may have set
        // what a reset would take away.
        permit.pool.discard(entry);
    }

    /// Ends what may still run on a connection, and takes it back.
    pub(super) fn recover(entry: Entry, permit: Permit) {
        let is_down = entry.epoch.end_reason() == Some(EndReason::Down);
        if entry.place.backend.is_some() && !is_down {
            return Self::start_recovery(entry, permit, Recovery::Cancel);
        }
        permit.pool.discard(entry);
    }

    pub(super) fn start_recovery(entry: Entry, permit: Permit, recovery: Recovery) {
        let pool = Arc::clone(&permit.pool);
        pool.spawn(recovering(entry, permit, recovery));
    }

    /// Makes a connection as good as new. `Ok(false)` where that cannot be done.
    async fn restore(
        self: &Arc<Self>,
        entry: &mut Entry,
        recovery: Recovery,
    ) -> Result<bool, sqlx::Error> {
        let Entry { link, is_new, place, .. } = entry;
        if recovery == Recovery::Hook {
            return self.hooks.released(link).await;
        }
        *is_new = true;
        let has_hook = self.hooks.after_release.is_some();
        // If it takes longer, a statement runs there that was sent over the bare connection and not seen.
        if recovery == Recovery::Reset
            && !has_hook
            && let Ok(result) =
                tokio::time::timeout(QUICK_RESET_TIMEOUT, reset(&self.server, link)).await
        {
            return result;
        }
        if let Some(backend) = place.backend {
            self.cancel_and_drain(link, backend).await?;
        }
        if has_hook {
            // If the last cancel comes late, it hits this and not the hook.
            drain(link).await?;
            if !self.hooks.released(link).await? {
                return Ok(false);
            }
        }
        reset(&self.server, link).await
    }

    /// Cancels the statement, and reads to its end. When this is through, no cancel is under way.
    async fn cancel_and_drain(
        self: &Arc<Self>,
        link: &mut PgConnection,
        backend: Backend,
    ) -> Result<(), sqlx::Error> {
        // A cancel that overtakes its statement does nothing, and many statements end by themselves in
        // this time.
        tokio::time::sleep(CANCEL_DELAY).await;
        let mut drained = pin!(drain(link));
        let mut backoff = Backoff::new(CANCEL_PAUSE, RECOVERY_TIMEOUT);
        let mut is_certain = true;
        loop {
            // Nothing is read while the order is under way: as long as a large result flows, sqlx reads on
            // without a pause, and nothing else would run on this thread.
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
}

async fn recovering(mut entry: Entry, permit: Permit, recovery: Recovery) {
    let pool = Arc::clone(&permit.pool);
    let restoring = pool.restore(&mut entry, recovery);
    let timeout = match recovery {
        Recovery::Cancel | Recovery::Reset => RECOVERY_TIMEOUT * 2,
        Recovery::Hook => pool.config.acquire_timeout,
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
async fn reset(server: &Server, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // A transaction that was dropped open has a `ROLLBACK` queued, which has to be sent first.
    while PgTransactionManager::get_transaction_depth(connection) > 0 {
        let entry = server.sender.logger.sending(server.name(), "ROLLBACK", Values::None, None);
        let rolled_back = PgTransactionManager::rollback(connection).await;
        entry.finish(&rolled_back);
        rolled_back?;
    }
    let mut may_roll_back = true;
    let mut cancelled = 0;
    loop {
        match server.setup.reset(connection, &server.sender).await {
            // The last cancel came late and hit the reset. If it goes on, the session has a time limit.
            Err(err) if cancelled < 2 && has_code(&err, QUERY_CANCELED) => {
                cancelled += 1;
            }
            // sqlx does not count a transaction whose `BEGIN` was dropped half-way or was sent as text.
            result if may_roll_back && is_in_transaction(&result) => {
                may_roll_back = false;
                server.sender.send(connection, "ROLLBACK".to_owned()).await?;
            }
            result => return result,
        }
    }
}

/// Whether a session could not be reset because a transaction is open on it, or failed on it.
fn is_in_transaction(result: &Result<bool, sqlx::Error>) -> bool {
    match result {
        Ok(is_reset) => !is_reset,
        Err(error) => has_code(error, IN_FAILED_TRANSACTION),
    }
}
