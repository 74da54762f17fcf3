//! What ends a statement before its time: its node turned down or was superseded, or the engine closes.

use std::pin::pin;
use std::time::Duration;

use crate::node::{EndReason, Epoch, NodePool};

/// What a statement on a pooled connection is subject to.
#[derive(Clone, Copy)]
pub(super) struct Cancellation<'a> {
    pub(super) epoch: &'a Epoch,
    pub(super) pool: &'a NodePool,
    /// How long the statement may still answer after its node turned down.
    pub(super) grace: Duration,
}

/// Runs the work, unless it is cancelled first. Outside a pool nothing cancels it.
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
        // The work is not polled again, since that might send it.
        return Err(pool.end_error(epoch, true));
    }
    // While the node is down its next epoch runs, which ends when the node is superseded or the engine
    // closes.
    let next = pool.epoch();
    match tokio::time::timeout(grace, next.run(work)).await {
        Ok(Some(result)) => result,
        Ok(None) | Err(_) => Err(pool.end_error(epoch, true)),
    }
}
