//! The connection over which a node is probed, apart from its pool: neither a full pool nor a slow
//! statement may pass for a node that is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::sync::{MutexGuard, Notify};

use crate::router::Sample;

/// How long a connection's goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A node's probe connection, and those who wait for an answer over it.
#[derive(Default)]
pub(crate) struct ProbeConnection {
    state: tokio::sync::Mutex<ProbeState>,
    /// Told when the node is to be probed at once.
    pub(crate) wake: Arc<Notify>,
    waiting: AtomicU32,
    arrived: Notify,
    /// Probes of the monitor's own, since the start.
    pub(crate) probes: AtomicU64,
    /// Questions for a position that tokens needed, since the start.
    pub(crate) token_probes: AtomicU64,
}

/// What is known from the connection, and the connection while no question is under way.
#[derive(Default)]
pub(crate) struct ProbeState {
    pub(crate) connection: Option<PgConnection>,
    pub(crate) latest: Option<Sample>,
    /// When the latest question began that was not answered.
    pub(crate) unanswered: Option<Instant>,
}

impl ProbeConnection {
    /// Takes the turn to ask. One who has it keeps all others waiting, so it must be polled.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, ProbeState> {
        self.state.lock().await
    }

    /// Has the node probed at once, because something speaks against what is known of it.
    pub(crate) fn suspect(&self) {
        self.wake.notify_one();
    }

    /// Closes the socket, unless a question is under way.
    pub(crate) fn hang_up(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            state.connection = None;
        }
    }

    /// Forgets what is known, and closes the connection in order.
    pub(crate) async fn close(&self) {
        let closing = async {
            let connection = std::mem::take(&mut *self.lock().await).connection;
            if let Some(connection) = connection {
                connection.close().await.unwrap_or_default();
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }

    /// Counts one who waits for an answer, until the guard is dropped.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.arrived.notify_one();
        Waiting(self)
    }

    /// Waits until at least so many wait for an answer, and not beyond the deadline.
    pub(crate) async fn gather(&self, wanted: impl Fn() -> u32, deadline: tokio::time::Instant) {
        while self.waiting.load(Ordering::Relaxed) < wanted() {
            if tokio::time::timeout_at(deadline, self.arrived.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// See [`ProbeConnection::wait`].
pub(crate) struct Waiting<'a>(&'a ProbeConnection);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
