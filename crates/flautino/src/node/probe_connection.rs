//! The connection over which a node is probed. It is outside the pool, so that a full pool or a slow
//! statement does not look like a node that is down.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::{Connection, PgConnection};
use tokio::sync::{MutexGuard, Notify, watch};

use crate::router::Sample;

/// How long telling the server that the connection closes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A question to the node, and all who wait for its answer: it is sent once there is one, and dropped if
/// there will be none.
pub(crate) type Question = watch::Sender<Option<Sample>>;

/// A node's probe connection, and the callers who wait for an answer over it.
#[derive(Default)]
pub(crate) struct ProbeConnection {
    state: tokio::sync::Mutex<ProbeState>,
    /// Notified when the node should be probed at once.
    pub(crate) wake: Arc<Notify>,
    next: Mutex<Next>,
    /// Notified when as many callers wait for the next question as it is held back for.
    gathered: Notify,
    /// How many probes the monitor has sent.
    pub(crate) probes: AtomicU64,
    /// How many times a position was asked for because a token needed one.
    pub(crate) token_probes: AtomicU64,
    /// How many times a position was asked for because a read needed it.
    pub(crate) position_probes: AtomicU64,
    /// Whether someone is about to ask for the position because a read needs it.
    pub(crate) is_asked: AtomicBool,
}

/// The question that has not begun yet, while somebody waits for its answer.
#[derive(Default)]
struct Next {
    /// Belongs to the task that will ask, so that nobody waits for a task that is gone.
    question: Weak<Question>,
    /// The latest of the events after which the answer must be.
    event: Option<Instant>,
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

impl ProbeState {
    /// Whether the server was asked after this event, be it answered or not.
    pub(crate) fn asked_after(&self, event: Option<Instant>) -> bool {
        let latest = self.latest.map(|latest| latest.began);
        event.is_some() && latest.max(self.unanswered) > event
    }
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

    /// Waits for the answer to the next question, which begins after `event`, an event of the past.
    /// Returns the question too if this is the first caller who waits for it, who has to see to it that
    /// it is asked. If by now as many as `wanted` wait, it is not held back any longer.
    pub(crate) fn join(
        &self,
        event: Instant,
        wanted: u32,
    ) -> (watch::Receiver<Option<Sample>>, Option<Arc<Question>>) {
        let mut next = self.next.lock();
        next.event = next.event.max(Some(event));
        if let Some(question) = next.question.upgrade() {
            let answer = question.subscribe();
            if question.receiver_count() >= wanted as usize {
                self.gathered.notify_one();
            }
            return (answer, None);
        }
        let question = Arc::new(Question::new(None));
        next.question = Arc::downgrade(&question);
        (question.subscribe(), Some(question))
    }

    /// The latest event after which the answer to the next question must be.
    pub(crate) fn event(&self) -> Option<Instant> {
        self.next.lock().event
    }

    /// The question begins now: who comes later waits for another one. Returns the latest event of those
    /// who wait for this one.
    pub(crate) fn begin(&self) -> Option<Instant> {
        std::mem::take(&mut *self.next.lock()).event
    }

    /// Holds the question back until at least `wanted` callers wait for its answer, or until the deadline.
    pub(crate) async fn gather(
        &self,
        question: &Question,
        wanted: impl Fn() -> u32,
        deadline: tokio::time::Instant,
    ) {
        while question.receiver_count() < wanted() as usize {
            if tokio::time::timeout_at(deadline, self.gathered.notified()).await.is_err() {
                return;
            }
        }
    }
}
