//! What becomes of a connection that is not known to be clean, while it keeps its slot.
//!
//! One whose session may have changed is reset. One on which a statement may still run has that
//! cancelled, over another connection, and what the server still sends is read to its end; then it is
//! reset. Only where this takes too long is the server's process ended.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;

use super::epoch::EndReason;
use super::managed::ManagedConnection;
use super::slot::Slot;
use super::{NodePool, close_managed};
use crate::logging::Values;
use crate::node::backend::{Signal, drain};
use crate::node::server::Server;
use crate::sqlstate::{IN_FAILED_TRANSACTION, QUERY_CANCELED, has_code, is_connection_lost};

/// How long resetting a session may take, after a statement on it has ended, which may take as long. So
/// may terminating the backend where either fails.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a reset may take before the pool assumes that a statement still runs on the session.
const QUICK_RESET_TIMEOUT: Duration = Duration::from_millis(200);

/// What has to be done before a connection can be checked out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Its session is unchanged: only the app's `after_release` has to run.
    Hook,
    /// Its session may have changed, and has to be reset.
    Reset,
    /// A statement may still run on it, and has to be cancelled before the session is reset.
    Cancel,
}

impl NodePool {
    /// Resets the session of a connection and puts it back, where sessions are the engine's own.
    pub(super) fn reset(managed: Box<ManagedConnection>, slot: Slot) {
        if slot.pool.server.setup.owns_sessions() {
            return Self::start_recovery(managed, slot, Recovery::Reset);
        }
        // Behind PgBouncer the session is shared with other clients. In an external pool a reset would
        // undo what the pool's own hooks have set.
        slot.pool.discard(*managed);
    }

    /// Ends what may still run on a connection, resets its session and puts it back. Discards it where
    /// that cannot work: the backend is not known, or the node is down.
    pub(super) fn recover(managed: Box<ManagedConnection>, slot: Slot) {
        let is_down = managed.epoch.end_reason() == Some(EndReason::Down);
        if managed.registration.backend.is_some() && !is_down {
            return Self::start_recovery(managed, slot, Recovery::Cancel);
        }
        slot.pool.discard(*managed);
    }

    pub(super) fn start_recovery(managed: Box<ManagedConnection>, slot: Slot, recovery: Recovery) {
        let pool = Arc::clone(&slot.pool);
        pool.spawn(run_recovery(managed, slot, recovery));
    }

    /// Does what the recovery demands. Returns `Ok(false)` if the connection has to be closed, because
    /// the app's hook refused it or its session cannot be reset.
    async fn restore(
        self: &Arc<Self>,
        managed: &mut ManagedConnection,
        recovery: Recovery,
    ) -> Result<bool, sqlx::Error> {
        let ManagedConnection { connection, is_new, registration, .. } = managed;
        if recovery == Recovery::Hook {
            return self.hooks.run_after_release(connection).await;
        }
        // The reset takes away what `after_connect` has set.
        *is_new = true;
        let has_hook = self.hooks.after_release.is_some();
        // The hook must not meet a statement that still runs, so a connection with a hook takes the long
        // way. If the reset takes longer, it waits for a statement that the app sent over the connection itself.
        // That is cancelled below, and the reset is sent again.
        if recovery == Recovery::Reset
            && !has_hook
            && let Ok(result) =
                tokio::time::timeout(QUICK_RESET_TIMEOUT, reset(&self.server, connection)).await
        {
            return result;
        }
        if registration.backend.is_some() {
            self.end_statement(registration.backend, connection).await?;
        }
        if has_hook {
            // A cancel that comes late hits this round trip and not the hook.
            drain(connection).await?;
            if !self.hooks.run_after_release(connection).await? {
                return Ok(false);
            }
        }
        reset(&self.server, connection).await
    }
}

/// The task that recovers a connection. It holds the slot, so that a connection counts as in use until
/// it is put back or closed.
async fn run_recovery(mut managed: Box<ManagedConnection>, slot: Slot, recovery: Recovery) {
    let pool = Arc::clone(&slot.pool);
    let restoring = pool.restore(&mut managed, recovery);
    let timeout = match recovery {
        Recovery::Cancel | Recovery::Reset => RECOVERY_TIMEOUT * 2,
        Recovery::Hook => pool.config.acquire_timeout,
    };
    let outcome = tokio::time::timeout(timeout, restoring).await;
    match &outcome {
        Ok(Ok(true)) => {
            if recovery != Recovery::Hook {
                managed.has_advanced = false;
                managed.settings = None;
            }
            return slot.give_back(managed);
        }
        Ok(Ok(false)) => return close_managed(managed).await,
        Ok(Err(_)) | Err(_) => {
            tracing::debug!(node = %pool.name(), ?outcome, "a connection could not be reset and is closed");
        }
    }
    // `NotEnded`, a statement that goes on or a session that is not reset in time, is no lost connection.
    let may_still_run = match &outcome {
        Ok(Err(error)) => !is_connection_lost(error),
        _ => true,
    };
    if let (Some(backend), true) = (managed.registration.backend, may_still_run) {
        // The connection counts until its backend was told to end. Otherwise clients who leave in numbers
        // would fill the server with backends that still run while the pool opens new connections.
        let _ =
            tokio::time::timeout(RECOVERY_TIMEOUT, pool.signal(backend, Signal::Terminate)).await;
    }
    pool.discard(*managed);
}

/// Resets the session, after it has rolled back any open transaction. Returns `Ok(false)` if the session
/// cannot be reset.
async fn reset(server: &Server, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    // sqlx queues a `ROLLBACK` when an open transaction is dropped; send it now.
    while PgTransactionManager::get_transaction_depth(connection) > 0 {
        let log_entry = server.sender.logger.sending(server.name(), "ROLLBACK", Values::None, None);
        let rolled_back = PgTransactionManager::rollback(connection).await;
        log_entry.finish(&rolled_back);
        rolled_back?;
    }
    let mut may_roll_back = true;
    let mut cancelled = 0;
    loop {
        match server.setup.reset(connection, &server.sender).await {
            // A cancel came late and hit the reset. If this happens a third time, it is no cancel of
            // ours but a time limit of the session.
            Err(err) if cancelled < 2 && has_code(&err, QUERY_CANCELED) => {
                cancelled += 1;
            }
            // sqlx does not know of a transaction whose `BEGIN` was dropped half-way or sent as text.
            result if may_roll_back && is_in_transaction(&result) => {
                may_roll_back = false;
                server.sender.send(connection, "ROLLBACK".to_owned()).await?;
            }
            result => return result,
        }
    }
}

/// Whether a session could not be reset because a transaction is open on it or has failed.
fn is_in_transaction(result: &Result<bool, sqlx::Error>) -> bool {
    match result {
        Ok(is_reset) => !is_reset,
        Err(error) => has_code(error, IN_FAILED_TRANSACTION),
    }
}
