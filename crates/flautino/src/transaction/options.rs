//! How a transaction begins.

use std::time::Duration;

use crate::backoff::Backoff;

/// The pauses before a transaction is tried again. Two that collided would collide again soon, so
/// they are jittered.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(320);

/// How a transaction begins, and how often
/// [`Handle::transaction_with`](crate::Handle::transaction_with) tries it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransactionOptions {
    /// Default: the server's `default_transaction_isolation`.
    pub isolation: Option<IsolationLevel>,
    /// Whether the server refuses writes in the transaction. Default: `false`.
    pub read_only: bool,
    /// With `Serializable` and `read_only`: whether `BEGIN` waits for a snapshot that cannot lead
    /// to a serialization failure. Default: `false`.
    pub deferrable: bool,
    /// How often [`Handle::transaction_with`](crate::Handle::transaction_with) runs its closure
    /// again after a serialization failure, a deadlock, a connection that was lost before the server
    /// read `COMMIT`, or a statement whose tables or types changed since it was prepared. Default: 0.
    pub retries: u32,
}

/// PostgreSQL's isolation levels. Its `READ UNCOMMITTED` is the same as `READ COMMITTED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Each statement sees what was committed before it began.
    ReadCommitted,
    /// All statements see what was committed before the first of them.
    RepeatableRead,
    /// As if transactions ran one after the other. A transaction may fail with 40001, and the app
    /// has to try it again then.
    Serializable,
}

impl TransactionOptions {
    pub(super) fn begin_sql(&self) -> String {
        let mut modes = Vec::new();
        match self.isolation {
            None => {}
            Some(IsolationLevel::ReadCommitted) => modes.push("ISOLATION LEVEL READ COMMITTED"),
            Some(IsolationLevel::RepeatableRead) => modes.push("ISOLATION LEVEL REPEATABLE READ"),
            Some(IsolationLevel::Serializable) => modes.push("ISOLATION LEVEL SERIALIZABLE"),
        }
        if self.read_only {
            modes.push("READ ONLY");
        }
        if self.deferrable {
            modes.push("DEFERRABLE");
        }
        if modes.is_empty() { "BEGIN".to_owned() } else { format!("BEGIN {}", modes.join(", ")) }
    }

    /// The pauses before the closure runs again.
    pub(crate) fn backoff() -> Backoff {
        Backoff::new(FIRST_PAUSE, MAX_PAUSE)
    }
}
