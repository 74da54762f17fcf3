//! The connection over which a node is probed. It is outside the pool, so that a full pool or a slow
//! statement does not look like a node that is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio::sync::{MutexGuard, Notify};

use crate::router::Sample;

/// How long telling the server that the connection closes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A node's probe connection, and the callers who wait for an answer over it.
#[derive(Default)]
pub(crate) struct ProbeConnection {
    state: tokio::sync::Mutex<ProbeState>,
    /// Notified when the node should be probed at once.
    pub(crate) wake: Arc<Notify>,
    /// How many callers wait for an answer.
    waiting: AtomicU32,
    /// Notified of each of them.
    arrived: Notify,
    /// How many probes the monitor has sent.
    pub(crate) probes: AtomicU64,
    /// How many times a position was asked for because a token needed one.
    pub(crate) token_probes: AtomicU64,
    /// How many times a position was asked for because a read needed it.
    pub(crate) position_probes: AtomicU64,
    /// Whether someone is about to ask for the position because a read needs it.
    pub(crate) is_asked: AtomicBool,
}

/// The connection, and what the server answered over it.
#[derive(Default)]
pub(crate) struct ProbeState {
    /// `None` before the first question, while one is under way, and after one has failed.
    pub(crate) connection: Option<PgConnection>,
    /// The latest answer.
    pub(crate) latest: Option<Sample>,
    /// When the latest question was asked that was not answered.
    pub(crate) unanswered: Option<Instant>,
}

impl ProbeConnection {
    /// Locks the connection, to ask over it. Everyone else waits meanwhile, so the future that holds the
    /// guard must be polled to its end: in a task of its own.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, ProbeState> {
        self.state.lock().await
    }

    /// Has the node probed at once, because what is known of it may be wrong.
    pub(crate) fn suspect(&self) {
        self.wake.notify_one();
    }

    /// Closes the socket, unless a question is under way.
    pub(crate) fn hang_up(&self) {
        if let Ok(mut state) = self.state.try_lock() {
            state.connection = None;
        }
    }

    /// Forgets what is known, tells the server that the connection closes, and closes it.
    pub(crate) async fn close(&self) {
        let closing = async {
            let connection = std::mem::take(&mut *self.lock().await).connection;
            if let Some(connection) = connection {
                connection.close().await.unwrap_or_default();
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }

    /// Counts a caller who waits for an answer, until the guard is dropped.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.arrived.notify_one();
        Waiting(self)
    }

    /// Waits until at least `wanted` callers wait for an answer, or until the deadline, so that one
    /// question serves all of them.
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
