//! Waiting, without holding up the runtime's threads.

use std::time::Duration;

/// How often a condition that is waited for is checked.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Runs what blocks its thread for longer than a moment on a thread that may be blocked.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
