//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// How long a condition may take before the test fails: far longer than any should need.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds; answers how long that took. Fails the test, naming `what`,
/// when it does not come true.
pub async fn wait_until(what: &str, condition: impl AsyncFnMut() -> bool) -> Duration {
    wait_until_or_tell(what, condition, String::new).await
}

/// As [`wait_until`]; `tell` says what there was instead.
pub async fn wait_until_or_tell(
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
    tell: impl FnOnce() -> String,
) -> Duration {
    let started = Instant::now();
    loop {
        if condition().await {
            return started.elapsed();
        }
        if started.elapsed() >= PATIENCE {
            panic!("waited {PATIENCE:?} in vain until {what}\n{}", tell());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
