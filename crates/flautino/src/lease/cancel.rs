//! Cancels statements on this side, because their node is found to be down or superseded, or because the
//! engine closes.

use std::pin::pin;
use std::time::Duration;

use crate::node::{EndReason, Epoch, NodePool};

/// What can cancel a statement on a pooled connection.
#[derive(Clone, Copy)]
pub(super) struct Cancellation<'a> {
    /// The epoch of the connection: the statement is cancelled when it is ended.
    pub(super) epoch: &'a Epoch,
    pub(super) pool: &'a NodePool,
    /// How long the statement may still be answered after its node is found to be down.
    pub(super) grace: Duration,
}

/// Runs the work, which fails when it is cancelled. Outside a pool nothing cancels it.
pub(super) async fn run_cancellable<T>(
    cancellation: Option<Cancellation<'_>>,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let Some(Cancellation { epoch, pool, grace }) = cancellation else { return work.await };
    let mut work = pin!(work);
    if let Some(result) = epoch.run(work.as_mut()).await {
        return result;
    }
    if grace.is_zero() || epoch.end_reason() != Some(EndReason::Down) {
        // Polling the work again might send its statement.
        return Err(pool.end_error(epoch, true));
    }
    // The node's next epoch has begun already. It is ended when the node is superseded or the engine
    // closes, and then the grace is over.
    let next = pool.epoch();
    match tokio::time::timeout(grace, next.run(work)).await {
        Ok(Some(result)) => result,
        Ok(None) | Err(_) => Err(pool.end_error(epoch, true)),
    }
}
