//! Transactions whose `commit` returns `Ok` only if the server has committed.
//!
//! ```no_run
//! # async fn f(db: flautino::Handle) -> Result<(), sqlx::Error> {
//! let mut tx = db.begin().await?;
//! sqlx::query("INSERT INTO notes (title) VALUES ('a')").execute(&mut tx).await?;
//!
//! let mut attempt = tx.savepoint().await?;
//! match sqlx::query("INSERT INTO notes (title) VALUES (NULL)").execute(&mut attempt).await {
//!     Ok(_) => attempt.commit().await?,
//!     Err(_) => attempt.rollback().await?, // the first row stays
//! }
//! tx.commit().await
//! # }
//! ```

mod savepoint;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgConnection, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;

pub use self::savepoint::Savepoint;
use crate::error::Error;
use crate::lease::executor::executor_through;
use crate::lease::{Failures, Lease};
use crate::sql::{Classifier, quoted};
use crate::sqlstate::{CONNECTION_CLASS, server_keeps_session, sqlstate};
use crate::statement::Statement;

/// A command that tells whether a transaction is open and not aborted: it fails in an aborted
/// transaction (25P02) and outside of a transaction (25P01).
const CHECK: &str = "SAVEPOINT flautino_check";

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
    /// again after a serialization failure, a deadlock, or a connection that was lost before
    /// `COMMIT` was sent. Default: 0.
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
    fn begin_sql(&self) -> String {
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

    /// The pause before the nth retry: 10 ms, doubling up to 320 ms. A random part of up to one
    /// half is left out, so that two transactions that collided do not collide again.
    pub(crate) fn backoff(attempt: u32) -> Duration {
        let longest = Duration::from_millis(10) * 2_u32.pow(attempt.saturating_sub(1).min(5));
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), attempt);
        longest / 2 + longest.mul_f64((random % 1024) as f64 / 2048.0)
    }
}

/// A transaction on one connection. Dropped, it rolls back.
///
/// Statements go through `&mut tx`, or through the [`PgConnection`] it dereferences to. After the
/// latter, `commit` needs one more round trip: flautino has not seen whether a statement failed, so
/// it first asks the server whether the transaction is aborted.
pub struct Transaction {
    lease: Lease,
    /// Set while a savepoint is created or released, and ever after if that was cancelled or
    /// failed. sqlx may then have queued a `ROLLBACK`, so nothing more may be sent in this
    /// transaction.
    lost: bool,
}

impl Transaction {
    /// Begins a transaction on this lease.
    pub(crate) async fn begin(
        mut lease: Lease,
        options: &TransactionOptions,
    ) -> Result<Self, sqlx::Error> {
        let sql = options.begin_sql();
        let statement = AssertSqlSafe(sql.clone()).into_sql_str();
        // If this is cancelled, the lease is dropped while busy, and its connection is recovered.
        lease
            .control(&sql, |connection| {
                Box::pin(PgTransactionManager::begin(connection, Some(statement)))
            })
            .await?;
        lease.set_in_transaction(true, options.read_only);
        Ok(Self { lease, lost: false })
    }

    /// The name of the node it runs on.
    #[must_use]
    pub fn node(&self) -> &str {
        self.lease.node()
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// - [`Error::CommitAborted`] if a statement had failed, so that the server rolled back;
    /// - [`Error::CommitUnknown`] if the connection was lost before the server's answer;
    /// - [`Error::TransactionLost`] if a savepoint was cancelled half-way or left open;
    /// - otherwise the server's error; nothing is committed then.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half-way, the transaction may or may not be committed.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.try_commit().await
    }

    async fn try_commit(&mut self) -> Result<(), sqlx::Error> {
        self.not_lost()?;
        if self.depth() > 1 {
            // A savepoint was leaked and never ended. Nobody can tell whether its changes were
            // meant to stay.
            self.try_rollback().await?;
            return Err(Error::TransactionLost.into());
        }
        let Failures { any, unwatched, .. } = self.lease.failures;
        if (any || unwatched) && !self.is_intact().await? {
            self.try_rollback().await?;
            return Err(Error::CommitAborted.into());
        }
        let commit = self
            .lease
            .control("COMMIT", |connection| Box::pin(PgTransactionManager::commit(connection)));
        match commit.await {
            Ok(()) => {
                self.lease.set_in_transaction(false, false);
                Ok(())
            }
            Err(err) if refuses_commit(&err) => Err(err),
            Err(err) => Err(Error::CommitUnknown(err).into()),
        }
    }

    /// Rolls back. Dropping the transaction does so too, in the background.
    ///
    /// # Errors
    ///
    /// The connection's error. The server rolls back by itself then.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half-way, the transaction is rolled back in the background.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.try_rollback().await
    }

    async fn try_rollback(&mut self) -> Result<(), sqlx::Error> {
        // More than one level is open only if a savepoint was leaked.
        while PgTransactionManager::get_transaction_depth(&self.lease) > 0 {
            let rollback = self.lease.control("ROLLBACK", |connection| {
                Box::pin(PgTransactionManager::rollback(connection))
            });
            rollback.await?;
        }
        if !self.lost {
            self.lease.set_in_transaction(false, false);
        }
        Ok(())
    }

    /// Commits if the closure returned `Ok`, else rolls back. Also returns whether the whole
    /// transaction may be tried again.
    pub(crate) async fn conclude<T, E: From<sqlx::Error>>(
        mut self,
        result: Result<T, E>,
    ) -> (Result<T, E>, bool) {
        let mut unknown = false;
        let result = match result {
            Ok(value) => self.try_commit().await.map(|()| value).map_err(|err| {
                // If the server did commit, trying again would do everything twice.
                unknown = matches!(Error::of(&err), Some(Error::CommitUnknown(_)));
                E::from(err)
            }),
            Err(err) => {
                if let Err(failed) = self.try_rollback().await {
                    tracing::debug!(
                        error = %failed,
                        "ROLLBACK failed; the server rolls back when the connection closes"
                    );
                }
                Err(err)
            }
        };
        let retryable = self.lease.failures.retryable && !unknown;
        (result, retryable)
    }

    /// Sets a savepoint. If it is dropped without [`commit`](Savepoint::commit), all changes that
    /// were made through it are undone.
    ///
    /// # Errors
    ///
    /// The server's error, such as 25P02 if the transaction is aborted.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half-way, the whole transaction is lost: everything later fails with
    /// [`Error::TransactionLost`].
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>, sqlx::Error> {
        self.set_savepoint(None).await
    }

    /// As [`savepoint`](Transaction::savepoint), under a name that your own SQL can use. The name
    /// is quoted, so it may be any text that is not empty and has no NUL character.
    ///
    /// # Errors
    ///
    /// As [`savepoint`](Transaction::savepoint), and [`sqlx::Error::Encode`] for an empty name or
    /// one with a NUL character.
    ///
    /// # Cancellation
    ///
    /// As [`savepoint`](Transaction::savepoint).
    pub async fn named_savepoint(&mut self, name: &str) -> Result<Savepoint<'_>, sqlx::Error> {
        if name.is_empty() || name.contains('\0') {
            let message = "a savepoint's name is empty or has a NUL character";
            return Err(sqlx::Error::Encode(message.into()));
        }
        self.set_savepoint(Some(name)).await
    }

    async fn set_savepoint(&mut self, name: Option<&str>) -> Result<Savepoint<'_>, sqlx::Error> {
        self.not_lost()?;
        let Failures { any, unwatched, .. } = self.lease.failures;
        if any || unwatched {
            // If the server refuses a savepoint, sqlx queues a rollback of the whole transaction.
            // So find out first whether it would be refused.
            self.send(CHECK.to_owned()).await?;
        }
        self.lost = true;
        let log = format!("SAVEPOINT _sqlx_savepoint_{}", self.depth());
        self.lease
            .control(&log, |connection| Box::pin(PgTransactionManager::begin(connection, None)))
            .await?;
        if let Some(name) = name {
            self.send(format!("SAVEPOINT {}", quoted(name))).await?;
        }
        self.lost = false;
        Ok(Savepoint {
            failures_before: self.lease.failures,
            level: self.depth(),
            transaction: self,
            open: true,
        })
    }

    /// sqlx's count of open levels: the transaction and its savepoints.
    fn depth(&self) -> usize {
        PgTransactionManager::get_transaction_depth(&self.lease)
    }

    /// Asks the server whether the transaction is open and not aborted.
    async fn is_intact(&mut self) -> Result<bool, sqlx::Error> {
        match self.send(CHECK.to_owned()).await {
            Ok(()) => Ok(true),
            Err(sqlx::Error::Database(_)) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Sends a command that sqlx does not count as a level.
    async fn send(&mut self, sql: String) -> Result<(), sqlx::Error> {
        let statement = Statement::simple(AssertSqlSafe(sql.clone()).into_sql_str());
        let sent = self.lease.control(&sql, |connection| connection.execute(statement));
        sent.await.map(drop)
    }

    /// Whether the transaction may have ended.
    ///
    /// The depth is 0 if the app called sqlx's own `begin` on the bare connection and cancelled it:
    /// sqlx then rolls back one level too many. Outside of a transaction, each further statement
    /// would be committed at once.
    fn is_lost(&self) -> bool {
        self.lost || self.depth() == 0
    }

    fn not_lost(&self) -> Result<(), Error> {
        if self.is_lost() { Err(Error::TransactionLost) } else { Ok(()) }
    }

    /// Refuses statements that must not run in this transaction.
    fn admit(&self, statement: &Statement) -> Result<(), Error> {
        self.not_lost()?;
        if self.lease.was_routed_to_replica() && statement.may_change_session() {
            return Err(Error::NotOnReplica { node: self.node().to_owned() });
        }
        statement.refuse_control()
    }

    fn classifier(&self) -> &Classifier {
        self.lease.classifier()
    }
}

executor_through!(&'c mut Transaction, |transaction, statement| {
    match transaction.admit(statement) {
        Ok(()) => Ok(&mut transaction.lease),
        Err(err) => Err(err.into()),
    }
});

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.lease
    }
}

/// The connection itself, for functions that take `&mut PgConnection`.
///
/// # Panics
///
/// If the transaction is lost ([`Error::TransactionLost`]): the connection may no longer be in a
/// transaction then, and each statement would be committed at once.
impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        assert!(!self.is_lost(), "{}", Error::TransactionLost);
        &mut self.lease
    }
}

impl AsMut<PgConnection> for Transaction {
    fn as_mut(&mut self) -> &mut PgConnection {
        self
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("node", &self.lease.node())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// Whether an error of `COMMIT` proves that nothing was committed: `COMMIT` was not sent, or the
/// server refused it and kept the session. An error of class 08 proves nothing: it comes from a
/// pooler that has lost its server.
fn refuses_commit(err: &sqlx::Error) -> bool {
    let code = sqlstate(err).unwrap_or_default();
    let was_sent =
        !matches!(Error::of(err), Some(Error::NodeDown { sent: false, .. } | Error::Closed { .. }));
    !was_sent || (server_keeps_session(err) && !code.starts_with(CONNECTION_CLASS))
}
