//! How pools are closed.

use std::sync::Arc;
use std::time::Duration;

use super::report::CloseReport;
use crate::node::{EndReason, NodePool};

/// How long each step of closing may take that waits for servers: closing idle connections, ending
/// cancelled statements, and ending tasks.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Closes pools: idle connections at once, and busy ones when they are given back. Statements that still
/// run after the drain time are ended for `reason`, and cancelled at the server.
pub(super) async fn close_pools(
    pools: &[Arc<NodePool>],
    drain: Duration,
    reason: EndReason,
) -> CloseReport {
    let in_use = || pools.iter().map(|pool| pool.in_use() as usize).sum::<usize>();
    pools.iter().for_each(|pool| pool.shut());
    let busy = in_use();
    let idle = futures_util::future::join_all(pools.iter().map(|pool| pool.close_idle()));
    let idle = tokio::time::timeout(CLOSE_GRACE, idle).await.unwrap_or_default();
    let closing = futures_util::future::join_all(pools.iter().map(|pool| pool.close()));
    let mut closing = std::pin::pin!(closing);
    let mut cancelled = 0;
    if tokio::time::timeout(drain, &mut closing).await.is_err() {
        cancelled = in_use();
        pools.iter().for_each(|pool| pool.end(reason));
        // `end` takes effect when the statement's future is polled, which the app may not do. Cancelling
        // at the server does not depend on it.
        let cancelling = futures_util::future::join_all(pools.iter().map(NodePool::cancel_all));
        let ending = futures_util::future::join(cancelling, closing);
        let _ = tokio::time::timeout(CLOSE_GRACE, ending).await;
    }
    let still_held = in_use();
    CloseReport {
        idle: idle.iter().sum(),
        drained: busy.saturating_sub(cancelled),
        cancelled: cancelled.saturating_sub(still_held),
        still_held,
        ..CloseReport::default()
    }
}
