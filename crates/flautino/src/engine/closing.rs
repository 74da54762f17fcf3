//! How pools end.

use std::sync::Arc;
use std::time::Duration;

use super::report::CloseReport;
use crate::node::{EndReason, NodePool};

/// How long statements that were cancelled, and goodbyes, may take.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Closes pools: what is idle at once, and what is busy when it is given back. What still runs after
/// the drain time is ended, here and at the server.
pub(super) async fn close_pools(
    pools: &[Arc<NodePool>],
    drain: Duration,
    why: EndReason,
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
        pools.iter().for_each(|pool| pool.end(why));
        // Some are held by who does not look at them, and so does not end them.
        let stopping = futures_util::future::join_all(pools.iter().map(NodePool::cancel_all));
        let ending = futures_util::future::join(stopping, closing);
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
