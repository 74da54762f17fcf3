//! Transactions that cannot lie: `commit` returns `Ok` only for what the server committed.
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

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgConnection, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;

use crate::error::Error;
use crate::lease::executor::executor_through;
use crate::lease::{Failures, Lease};
use crate::sql::{Classifier, quoted};
use crate::sqlstate::{CONNECTION_CLASS, server_keeps_session, sqlstate};
use crate::statement::Statement;

/// Fails in an aborted transaction (25P02) and outside of one (25P01), and does nothing else.
const CHECK: &str = "SAVEPOINT flautino_check";

/// How a transaction begins, and how often the closure form tries it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransactionOptions {
    /// Default: the server's `default_transaction_isolation`.
    pub isolation: Option<IsolationLevel>,
    /// Whether the server refuses writes in it. Default: `false`.
    pub read_only: bool,
    /// With `Serializable` and `read_only`: wait for a snapshot that cannot fail. Default: `false`.
    pub deferrable: bool,
    /// How often [`Handle::transaction_with`](crate::Handle::transaction_with) runs its closure
    /// again after a serialization failure, a deadlock, or a connection that was lost before `COMMIT`
    /// was sent. Default: 0.
    pub retries: u32,
}

/// The isolation levels that PostgreSQL tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Each statement sees what was committed before it began.
    ReadCommitted,
    /// All statements see what was committed before the first of them.
    RepeatableRead,
    /// As if transactions ran one after the other; one may fail with 40001 and is then to be
    /// tried again.
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

    /// Before the nth retry: 10 ms, doubling, 320 ms at the most, halved at random so that two
    /// that collided do not collide again.
    pub(crate) fn backoff(attempt: u32) -> Duration {
        let longest = Duration::from_millis(10) * 2_u32.pow(attempt.saturating_sub(1).min(5));
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), attempt);
        longest / 2 + longest.mul_f64((random % 1024) as f64 / 2048.0)
    }
}

/// A transaction on one connection. Dropped, it rolls back.
///
/// Statements go through `&mut tx`, or through the [`PgConnection`] it dereferences to; after
/// the latter `commit` asks the server first whether the transaction still stands, at one round
/// trip, since flautino has not seen what happened.
pub struct Transaction {
    lease: Lease,
    /// Creating a savepoint was cancelled or failed, and sqlx has a `ROLLBACK` waiting.
    lost: bool,
}

impl Transaction {
    pub(crate) async fn begin(
        mut lease: Lease,
        options: &TransactionOptions,
    ) -> Result<Self, sqlx::Error> {
        let sql = options.begin_sql();
        let statement = AssertSqlSafe(sql.clone()).into_sql_str();
        // Cancelled here, the lease is busy, and its connection recovered.
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
    /// [`Error::CommitAborted`] when a statement had failed and the server rolled back;
    /// [`Error::CommitUnknown`] when the connection was lost before the server's answer;
    /// [`Error::TransactionLost`]; else what the server says, after which nothing is committed.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the transaction may or may not be committed.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.try_commit().await
    }

    async fn try_commit(&mut self) -> Result<(), sqlx::Error> {
        self.not_lost()?;
        if self.depth() > 1 {
            // A level that was forgotten, not ended: what belongs to it cannot be told.
            self.try_rollback().await?;
            return Err(Error::TransactionLost.into());
        }
        let Failures { any, unwatched, .. } = self.lease.failures;
        if (any || unwatched) && !self.stands().await? {
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
    /// What the connection says; the server rolls back then by itself.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, it is rolled back in the background all the same.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.try_rollback().await
    }

    async fn try_rollback(&mut self) -> Result<(), sqlx::Error> {
        // More than one level is open only where a savepoint was forgotten.
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

    /// Ends it as the closure's result asks; also says whether trying again may help.
    pub(crate) async fn conclude<T, E: From<sqlx::Error>>(
        mut self,
        result: Result<T, E>,
    ) -> (Result<T, E>, bool) {
        let mut unknown = false;
        let result = match result {
            Ok(value) => self.try_commit().await.map(|()| value).map_err(|err| {
                // It may have been committed, and would be done twice.
                unknown = matches!(Error::of(&err), Some(Error::CommitUnknown(_)));
                E::from(err)
            }),
            Err(err) => {
                if let Err(failed) = self.try_rollback().await {
                    tracing::debug!(error = %failed, "rollback failed; the connection is closed");
                }
                Err(err)
            }
        };
        let retryable = self.lease.failures.retryable && !unknown;
        (result, retryable)
    }

    /// Sets a savepoint. What is done through it is undone when it is dropped without
    /// [`commit`](Savepoint::commit).
    ///
    /// # Errors
    ///
    /// What the server says, such as 25P02 when the transaction is aborted.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the whole transaction is lost: everything later fails with
    /// [`Error::TransactionLost`].
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>, sqlx::Error> {
        self.set_savepoint(None).await
    }

    /// As [`savepoint`](Transaction::savepoint), and known by `name` to SQL of your own. Any
    /// name will do, since it is quoted, but the empty one and one with a NUL.
    ///
    /// # Errors
    ///
    /// As [`savepoint`](Transaction::savepoint), and [`sqlx::Error::Encode`] for such a name.
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
            // sqlx answers a refused savepoint by queueing a rollback of the whole transaction.
            self.own(CHECK.to_owned()).await?;
        }
        self.lost = true;
        let log = format!("SAVEPOINT _sqlx_savepoint_{}", self.depth());
        self.lease
            .control(&log, |connection| Box::pin(PgTransactionManager::begin(connection, None)))
            .await?;
        if let Some(name) = name {
            self.own(format!("SAVEPOINT {}", quoted(name))).await?;
        }
        self.lost = false;
        Ok(Savepoint {
            failures: self.lease.failures,
            level: self.depth(),
            transaction: self,
            open: true,
        })
    }

    fn depth(&self) -> usize {
        PgTransactionManager::get_transaction_depth(&self.lease)
    }

    /// Asks the server whether the transaction is open and not aborted.
    async fn stands(&mut self) -> Result<bool, sqlx::Error> {
        match self.own(CHECK.to_owned()).await {
            Ok(()) => Ok(true),
            Err(sqlx::Error::Database(_)) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Sends a command of our own, outside sqlx's count of levels.
    async fn own(&mut self, sql: String) -> Result<(), sqlx::Error> {
        let statement = Statement::simple(AssertSqlSafe(sql.clone()).into_sql_str());
        let sent = self.lease.control(&sql, |connection| connection.execute(statement));
        sent.await.map(drop)
    }

    /// sqlx's own `begin` on the bare connection, cancelled half-way, rolls back levels that are
    /// not its own: with none left, statements would be committed one by one.
    fn is_lost(&self) -> bool {
        self.lost || self.depth() == 0
    }

    fn not_lost(&self) -> Result<(), Error> {
        if self.is_lost() { Err(Error::TransactionLost) } else { Ok(()) }
    }

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
/// When the transaction is lost ([`Error::TransactionLost`]): the connection is no longer in a
/// transaction then, and what is sent through it would be committed at once.
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

/// Part of a transaction that can be undone on its own. Dropped, it rolls back to its start.
///
/// Statements go through `&mut savepoint`. Savepoints nest: see [`Transaction::savepoint`],
/// which it dereferences to.
pub struct Savepoint<'t> {
    transaction: &'t mut Transaction,
    /// What had gone wrong before it was set: a failure after that is undone with the savepoint.
    failures: Failures,
    /// sqlx's depth while this one is the innermost level.
    level: usize,
    open: bool,
}

impl Savepoint<'_> {
    /// Keeps what was done; it is committed or rolled back with the transaction.
    ///
    /// # Errors
    ///
    /// What the server says, such as 25P02 when a statement behind the savepoint had failed;
    /// it is rolled back to its start then.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the whole transaction is lost, as with [`Transaction::savepoint`].
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.innermost()?;
        let log = format!("RELEASE {}", self.name());
        // Once it is sent, there may be nothing left to roll back to.
        self.transaction.lost = true;
        let release = self
            .transaction
            .lease
            .control(&log, |connection| Box::pin(PgTransactionManager::commit(connection)));
        let released = release.await;
        self.transaction.lost = false;
        released?;
        self.open = false;
        Ok(())
    }

    /// Undoes what was done behind it; the transaction goes on, also after an error.
    ///
    /// # Errors
    ///
    /// What the connection says.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, it is rolled back all the same.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.innermost()?;
        let log = format!("ROLLBACK TO {}", self.name());
        let rollback = self
            .transaction
            .lease
            .control(&log, |connection| Box::pin(PgTransactionManager::rollback(connection)));
        rollback.await?;
        self.open = false;
        self.forget_failures();
        Ok(())
    }

    /// As sqlx names it.
    fn name(&self) -> String {
        format!("SAVEPOINT _sqlx_savepoint_{}", self.level.saturating_sub(1))
    }

    /// That no level inside is still open, and none was lost on the way.
    fn innermost(&mut self) -> Result<(), Error> {
        self.transaction.lost |= self.transaction.depth() != self.level;
        self.transaction.not_lost()
    }

    /// What failed behind the savepoint is undone with it.
    fn forget_failures(&mut self) {
        let Failures { any, retryable, .. } = self.failures;
        let failures = &mut self.transaction.lease.failures;
        (failures.any, failures.retryable) = (any, retryable);
    }
}

executor_through!(&'c mut Savepoint<'_>, |savepoint, statement| {
    match savepoint.innermost().and_then(|()| savepoint.transaction.admit(statement)) {
        Ok(()) => Ok(&mut savepoint.transaction.lease),
        Err(err) => Err(err.into()),
    }
});

impl Deref for Savepoint<'_> {
    type Target = Transaction;

    fn deref(&self) -> &Transaction {
        self.transaction
    }
}

impl DerefMut for Savepoint<'_> {
    fn deref_mut(&mut self) -> &mut Transaction {
        self.transaction
    }
}

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        if self.open && self.innermost().is_ok() {
            let log = format!("ROLLBACK TO {}", self.name());
            self.transaction.lease.queue_rollback(&log);
            self.forget_failures();
        }
    }
}

impl fmt::Debug for Savepoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint").field("transaction", &self.transaction).finish()
    }
}

/// Whether an error of `COMMIT` says that nothing was committed: it was not sent, or it is the
/// server's answer on a session that goes on. A pooler speaks in class 08 of a server it has lost.
fn refuses_commit(err: &sqlx::Error) -> bool {
    let code = sqlstate(err).unwrap_or_default();
    let was_sent =
        !matches!(Error::of(err), Some(Error::NodeDown { sent: false, .. } | Error::Closed { .. }));
    !was_sent || (server_keeps_session(err) && !code.starts_with(CONNECTION_CLASS))
}
