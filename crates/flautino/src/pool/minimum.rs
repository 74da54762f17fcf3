//! The connections that are kept open when idle.
//!
//! sqlx's pool is told of no minimum. It would connect with a checkout's permit in its hand, for
//! minutes and with pauses of up to one where the server is away, whether the pool was closed
//! meanwhile or not.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;

use super::NodePool;

/// How long until the pool is looked at again, also after a failure.
const PAUSE: Duration = Duration::from_secs(1);

impl NodePool {
    /// Opens the minimum, and later what is missing of it, until the pool is closed.
    pub(crate) fn keep_minimum(self: &Arc<Self>) {
        if self.min == 0 {
            return;
        }
        self.start();
        let keeping = Box::pin(keep(Arc::downgrade(self)));
        let mut closed = self.pool.close_event();
        self.spawn(async move {
            // Dropped in the middle of an attempt, since `close` waits for its permit.
            let _ = closed.do_until(keeping).await;
        });
    }

    /// A connection was lost: those that rest may have died with it. sqlx's pool pings what it
    /// takes back.
    pub(crate) fn lost_one(&self) {
        self.return_warm();
        // Dead ones would count as a part of the minimum.
        if self.min > 0 {
            let resting: Vec<_> = std::iter::from_fn(|| self.pool.try_acquire()).collect();
            resting.into_iter().for_each(|connection| self.return_to_sqlx(connection));
        }
    }

    async fn fill_up(&self) {
        let until_down = self.until_down();
        for _ in self.pool.size()..self.min {
            if self.node.upgrade().is_none_or(|node| node.is_known_down()) {
                return;
            }
            match until_down.run_until_cancelled(self.open_one()).await {
                Some(Ok(true)) => {}
                Some(Ok(false)) | None => return,
                Some(Err(error)) => {
                    tracing::debug!(node = %self.name, %error, "fewer than `min_connections` are open");
                    return;
                }
            }
        }
    }

    /// One connection more; `false` where a checkout needs its place. It takes no slot, so that it
    /// never counts as in use.
    async fn open_one(&self) -> Result<bool, sqlx::Error> {
        let crowded = self.crowded.notified();
        if self.slots.available_permits() == 0 {
            return Ok(false);
        }
        // sqlx's pool makes none while one rests, so these are out until it has begun.
        let resting: Vec<_> = std::iter::from_fn(|| self.pool.try_acquire()).collect();
        let mut opening = pin!(self.pool.acquire());
        let begun = opening.as_mut().now_or_never();
        resting.into_iter().for_each(|connection| self.return_to_sqlx(connection));
        let opened = match begun {
            Some(opened) => opened,
            None => tokio::select! {
                opened = opening => opened,
                () = crowded => return Ok(false),
            },
        };
        self.return_to_sqlx(opened?);
        Ok(true)
    }
}

/// Nothing here keeps the pool alive between two looks at it.
async fn keep(home: Weak<NodePool>) {
    while let Some(home) = home.upgrade() {
        home.fill_up().await;
        drop(home);
        tokio::time::sleep(PAUSE).await;
    }
}
