//! The errors that flautino adds to sqlx's: one enum for each operation. Each error says which step
//! failed, and what to do; `startup` has those of configuring and opening an engine.

use std::fmt;
use std::io;
use std::time::Duration;

mod startup;
mod tls;

pub use self::startup::{ConfigError, NodeFailure, OpenError};
pub(crate) use self::tls::TlsFailure;

/// Why a query, a lease or a transaction failed, if the reason is flautino's and not the server's.
///
/// sqlx's traits allow only [`sqlx::Error`], so these are wrapped in one, as an
/// [`AnyDriverError`](sqlx::Error::AnyDriverError); [`Error::of`] finds them.
///
/// ```
/// let err: sqlx::Error = flautino::Error::Closed { node: "main".into() }.into();
/// assert!(matches!(flautino::Error::of(&err), Some(flautino::Error::Closed { .. })));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection came free, or none could be made, within
    /// [`acquire_timeout`](crate::PoolConfig::acquire_timeout).
    #[error(
        "no connection to node `{node}` within {waited:.1?}, while {step} ({in_use} of {max} in use); {}",
        step.fix()
    )]
    AcquireTimeout {
        /// The node's name.
        node: String,
        /// How long the caller waited.
        waited: Duration,
        /// Which step it was in.
        step: AcquireStep,
        /// Connections checked out at that moment.
        in_use: u32,
        /// The most that may be checked out, [`max_connections`](crate::PoolConfig::max_connections).
        max: u32,
    },

    /// The engine is closed. The statement was not sent.
    #[error("the engine is closed, so node `{node}` takes no statements; call `open()` to go on")]
    Closed {
        /// The node's name.
        node: String,
    },

    /// The tokio runtime in which the engine was opened has ended, and with it the engine's connections
    /// and tasks. Each `#[tokio::test]` has a runtime of its own, so an engine in a `static` outlives it.
    /// The statement was not sent.
    #[error(
        "the tokio runtime in which the engine was opened has ended, and with it the connections to \
         node `{node}`; open an engine in each runtime (each `#[tokio::test]` has its own), share one \
         runtime, or call `open()` again in this one"
    )]
    RuntimeEnded {
        /// The node's name.
        node: String,
    },

    /// The statement was still running when the engine closed and its drain time was over.
    #[error(
        "the statement on node `{node}` was cut off when the engine closed; \
         if it was to write, look whether it did before you try again"
    )]
    Cut {
        /// The node's name.
        node: String,
    },

    /// The node stopped answering while the statement waited for it.
    #[error(
        "node `{node}` is down{}",
        if *sent {
            "; the statement was under way, and if it was to write, look whether it did before you \
             try again"
        } else {
            "; the statement was not sent"
        }
    )]
    NodeDown {
        /// The node's name.
        node: String,
        /// Whether the statement was sent, and so may have run.
        sent: bool,
    },

    /// What was sent before on this connection was given up (by a timeout, say), and the server did not
    /// end it within a second. The connection is closed, and an open transaction on it is rolled back.
    #[error(
        "what was given up on this connection to node `{node}` goes on at the server, which did not end \
         it within a second; the connection is closed, and an open transaction on it is rolled back"
    )]
    NotEnded {
        /// The node's name.
        node: String,
    },

    /// No replica could serve a read, and the primary has no connection left for such reads: see
    /// [`Fallback`](crate::Fallback).
    #[error(
        "no replica can serve this read, and node `{node}` has no connection left for such reads \
         (`routing.fallback_share`, waited {waited:.1?}); look at the replicas, or raise \
         `pool.max_connections`"
    )]
    Overloaded {
        /// The primary's name.
        node: String,
        /// How long the caller waited.
        waited: Duration,
    },

    /// No node takes writes, and none became a primary within
    /// [`failover_timeout`](crate::RoutingConfig::failover_timeout). Nothing was sent.
    #[error(
        "no primary within {waited:.1?} (`routing.failover_timeout`): {nodes}; bring the primary \
         back, or promote a replica"
    )]
    NoPrimary {
        /// How long the caller waited.
        waited: Duration,
        /// Each node, and what is known of it.
        nodes: String,
    },

    /// The deadline of the handle passed; see [`Handle::with_deadline`](crate::Handle::with_deadline).
    #[error("the deadline passed while {step}")]
    DeadlineExceeded {
        /// How far the statement was.
        step: DeadlineStep,
    },

    /// A statement that changes its session, such as an advisory lock, in a read-only transaction on
    /// a replica. It would succeed there and have no effect on the primary.
    #[error(
        "this statement changes its session, and its read-only transaction runs on node `{node}`, \
         a replica; begin the transaction on `db.primary()`"
    )]
    NotOnReplica {
        /// The replica's name.
        node: String,
    },

    /// In an engine [for tests](crate::Engine::for_tests): a standby refuses this, so that the node `replica` does.
    #[error(
        "`{what}` is refused on a standby, and so on the node `replica` of an engine for tests; send it to the \
         primary (`db.primary()`)"
    )]
    RefusedByStandby {
        /// The command, the function or the isolation level.
        what: String,
    },

    /// A statement whose effect stays in its session, such as `SET`, on a node behind PgBouncer
    /// ([`pgbouncer`](crate::NodeConfig::pgbouncer)), which gives the session to other clients after each
    /// transaction. It was not sent.
    #[error(
        "`{what}` acts on a session that PgBouncer gives to other clients too (node `{node}`, \
         `pgbouncer = true`), so it was not sent; {instead}"
    )]
    SharedSession {
        /// The node's name.
        node: String,
        /// The command or the function.
        what: String,
        /// What to do instead.
        instead: &'static str,
    },

    /// A setting of [`Handle::with_settings`](crate::Handle::with_settings) cannot be sent. Nothing was sent.
    #[error(
        "the setting `{name}` of `with_settings` cannot be sent to PostgreSQL: a name must not be empty, and \
         neither name nor value may hold a zero byte"
    )]
    InvalidSetting {
        /// The setting's name.
        name: String,
    },

    /// The engine has no node of that name.
    #[error(transparent)]
    UnknownNode(#[from] UnknownNode),

    /// The server had aborted the transaction before `commit`, so nothing was committed.
    #[error(
        "the transaction was not committed: a statement in it had failed or was given up, and the \
         server rolled it back; roll back to a savepoint to go on after an error"
    )]
    CommitAborted,

    /// The connection was lost while `COMMIT` was under way.
    #[error(
        "it is not known whether the transaction was committed, since the connection was lost \
         while COMMIT was under way ({0}); look at the data before you try again"
    )]
    CommitUnknown(#[source] sqlx::Error),

    /// The server was shut down, or ended the session, while a statement ran that may have committed a
    /// part of its work before: a `CALL`, a `DO`, a text of several commands. Any other statement has
    /// had no effect then, and fails with the server's error.
    #[error(
        "the server ended the statement, which may have committed a part of its work before ({0}); \
         look at the data before you try again"
    )]
    EffectUnknown(#[source] sqlx::Error),

    /// Creating a savepoint was cancelled or refused, so the whole transaction is rolled back.
    #[error(
        "the transaction is lost, since creating a savepoint in it was cancelled or refused; \
         it is rolled back, begin a new one"
    )]
    TransactionLost,

    /// `BEGIN`, `COMMIT` and their like were sent as a statement.
    #[error(
        "`{keyword}` cannot be sent as a statement, since the next statement may go to another \
         connection; use `begin`, `commit`, `rollback` and `savepoint`"
    )]
    TransactionControl {
        /// The statement's first word.
        keyword: String,
    },

    /// A statement through a handle would hold something for as long as its session lasts: a
    /// session-level advisory lock, `LISTEN`. The session is reset after the statement, which would take
    /// it away at once. Nothing was sent.
    #[error(
        "`{name}` through a handle would hold nothing, since the session is reset after the statement; \
         use a lease (`db.acquire()`), or for a lock `pg_advisory_xact_lock` in a transaction \
         (`db.begin()`), or for notifications `engine.listen`"
    )]
    NeedsLease {
        /// What would hold it: the function that is called, or `LISTEN`.
        name: String,
    },
}

impl Error {
    /// Returns the flautino error inside a [`sqlx::Error`], if there is one.
    #[must_use]
    pub fn of(err: &sqlx::Error) -> Option<&Self> {
        match err {
            sqlx::Error::AnyDriverError(own) => {
                let explained = || own.downcast_ref().map(|AlreadyHolds { error, .. }| error);
                own.downcast_ref().or_else(explained)
            }
            _ => None,
        }
    }

    /// Its name, for telemetry.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::AcquireTimeout { .. } => "acquire_timeout",
            Self::Closed { .. } => "closed",
            Self::RuntimeEnded { .. } => "runtime_ended",
            Self::Cut { .. } => "cut",
            Self::NodeDown { .. } => "node_down",
            Self::NotEnded { .. } => "not_ended",
            Self::Overloaded { .. } => "overloaded",
            Self::NoPrimary { .. } => "no_primary",
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::NotOnReplica { .. } => "not_on_replica",
            Self::RefusedByStandby { .. } => "refused_by_standby",
            Self::SharedSession { .. } => "shared_session",
            Self::InvalidSetting { .. } => "invalid_setting",
            Self::UnknownNode(_) => "unknown_node",
            Self::CommitAborted => "commit_aborted",
            Self::CommitUnknown(_) => "commit_unknown",
            Self::EffectUnknown(_) => "effect_unknown",
            Self::TransactionLost => "transaction_lost",
            Self::TransactionControl { .. } => "transaction_control",
            Self::NeedsLease { .. } => "needs_lease",
        }
    }
}

impl From<Error> for sqlx::Error {
    fn from(err: Error) -> Self {
        // No `Io`: code that runs a statement again after an `Io` would do so after a `CommitUnknown`.
        Self::AnyDriverError(err.into())
    }
}

/// An [`Error`] of a caller who waited for a connection while it had others, and perhaps for itself.
#[derive(Debug, thiserror::Error)]
#[error(
    "{error}; the handle that asked and its clones hold {held} of them, in a transaction, a lease or a \
     stream of rows that is open: nest statements in that one (`&mut tx`), and transactions as its \
     savepoints (`tx.begin()`)"
)]
pub(crate) struct AlreadyHolds {
    error: Error,
    held: u32,
}

impl AlreadyHolds {
    /// Adds to the error that the caller holds connections, if all of them were in use.
    pub(crate) fn explain(err: sqlx::Error, held: u32) -> sqlx::Error {
        let is_full = match Error::of(&err) {
            Some(Error::AcquireTimeout { step, .. }) => {
                matches!(step, AcquireStep::WaitingForSlot | AcquireStep::WaitingForAppPool)
            }
            _ => false,
        };
        match err {
            sqlx::Error::AnyDriverError(own) if is_full && held > 0 => match own.downcast() {
                Ok(error) => sqlx::Error::AnyDriverError(Box::new(Self { error: *error, held })),
                Err(other) => sqlx::Error::AnyDriverError(other),
            },
            err => err,
        }
    }
}

impl From<UnknownNode> for sqlx::Error {
    fn from(err: UnknownNode) -> Self {
        Error::from(err).into()
    }
}

/// The step in which [`Error::AcquireTimeout`] ran out of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireStep {
    /// Every connection was in use, or was being made for a caller who came earlier.
    WaitingForSlot,
    /// There was a free slot, but the server did not answer or refused the connection.
    Connecting,
    /// A hook of the app's own ran on the connection.
    Hook,
    /// The pool that was given to [`Engine::from_pool`](crate::Engine::from_pool) gave none: other code
    /// used its connections, or it could make none.
    WaitingForAppPool,
}

impl AcquireStep {
    /// Its name, for telemetry.
    #[cfg(feature = "metrics")]
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::WaitingForSlot => "waiting_for_slot",
            Self::Connecting => "connecting",
            Self::Hook => "hook",
            Self::WaitingForAppPool => "waiting_for_app_pool",
        }
    }

    fn fix(self) -> &'static str {
        match self {
            Self::WaitingForSlot => {
                "raise `pool.max_connections`, or look for statements that hold connections for long"
            }
            Self::Connecting => "look whether the server is up, and takes more connections",
            Self::Hook => "look at `after_connect` and `before_acquire`",
            Self::WaitingForAppPool => {
                "look for other code that holds connections of the pool given to `Engine::from_pool`, \
                 or raise its `max_connections`; if none does, the server gives it no connection"
            }
        }
    }
}

impl fmt::Display for AcquireStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitingForSlot => "waiting for a free connection",
            Self::Connecting => "connecting to the server",
            Self::Hook => "running the engine's hooks",
            Self::WaitingForAppPool => "waiting for a free connection of the app's own pool",
        })
    }
}

/// How far a statement was when the deadline of its handle passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadlineStep {
    /// It waited: for a connection, a primary, the fallback budget, or to be sent again. It has had no effect.
    Waiting,
    /// It was under way. It is cancelled at the server, or its connection closed; whether it had an effect is not
    /// known.
    Running,
}

impl DeadlineStep {
    /// The error of a statement whose deadline passed at this step.
    pub(crate) fn exceeded(self) -> sqlx::Error {
        Error::DeadlineExceeded { step: self }.into()
    }

    /// The step at which the deadline ended a statement, if that is what the error says.
    pub(crate) fn of(error: &sqlx::Error) -> Option<Self> {
        match Error::of(error) {
            Some(Error::DeadlineExceeded { step }) => Some(*step),
            _ => None,
        }
    }
}

impl fmt::Display for DeadlineStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "the statement waited for a connection; it was not sent",
            Self::Running => {
                "the statement was under way; it is cancelled, or its connection closed, and if it was to \
                 write, look whether it did"
            }
        })
    }
}

/// A name that is no node of the engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no node `{name}`; the nodes are {}", quoted(known))]
pub struct UnknownNode {
    /// What was asked for.
    pub name: String,
    /// The nodes there are, `main` first.
    pub known: Vec<String>,
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// sqlx's error for what did not end in time.
pub(crate) fn timed_out(text: impl Into<String>) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text.into()))
}
