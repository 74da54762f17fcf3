//! [`Transaction`]: the guard of an open transaction.

use std::fmt;
use std::future::ready;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures_core::future::BoxFuture;
use sqlx::{Acquire, AssertSqlSafe, Connection, Executor, PgConnection, Postgres, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;

use super::options::{IsolationLevel, TransactionOptions};
use crate::error::Error;
use crate::lease::executor::executor_through;
use crate::lease::{Commands, DISCARD_SEQUENCES, Failures, Lease, Settings, Step};
use crate::sql::Classifier;
use crate::sqlstate::{CONNECTION_CLASS, ended_while_idle, server_keeps_session, sqlstate};
use crate::statement::{Statement, ToSend};

/// A command that tells whether a transaction is open and not aborted: it fails in an aborted
/// transaction (25P02) and outside of a transaction (25P01).
pub(super) const CHECK: &str = "SAVEPOINT flautino_check";

/// A transaction on one connection. Dropped, it rolls back.
///
/// Statements go through `&mut tx`, or through the [`PgConnection`] it dereferences to. After the
/// latter, `commit` needs one more round trip: flautino has not seen whether a statement failed, so
/// it first asks the server whether the transaction is aborted.
///
/// A statement that was given up (its future was dropped: by a timeout, a `select!`) is cancelled when
/// the transaction goes on, so that it does not hold up what follows. The transaction is aborted then;
/// a savepoint's rollback undoes that. Over the bare connection sqlx waits for the statement instead;
/// `rollback` cancels it after 200 ms in which nothing came, `commit` after a second.
///
/// [`tx.begin()`](Transaction::begin) sets a savepoint, as it does with sqlx, whichever of sqlx's
/// traits are imported.
pub struct Transaction {
    pub(super) lease: Lease,
    /// Set while a savepoint is created or released, and ever after if that was cancelled or
    /// failed. sqlx may then have queued a `ROLLBACK`, so nothing more may be sent in this
    /// transaction.
    pub(super) lost: bool,
}

impl Transaction {
    /// Begins a transaction on this lease.
    pub(crate) async fn begin_on(
        mut lease: Lease,
        options: &TransactionOptions,
        settings: Option<&Arc<Settings>>,
    ) -> Result<Self, sqlx::Error> {
        if lease.stands_in() && options.isolation == Some(IsolationLevel::Serializable) {
            return Err(Error::RefusedByStandby { what: "SERIALIZABLE".to_owned() }.into());
        }
        let (mut before, after) = lease.settings_for_begin(settings)?;
        if lease.has_foreign_sequences() {
            before.push(DISCARD_SEQUENCES, DISCARD_SEQUENCES);
        }
        let mut commands = Commands::default();
        if !before.is_empty() {
            // In a transaction of its own: the other one must not have a snapshot yet, and its rollback must not
            // take the settings away.
            commands.push("BEGIN", "BEGIN");
            commands.push(&before.sql, &before.log);
            commands.push("COMMIT", "COMMIT");
        }
        let begin = options.begin_sql();
        commands.push(&begin, &begin);
        if !after.is_empty() {
            commands.push(&after.sql, &after.log);
        }
        let Commands { sql, log } = commands;
        let is_plain = sql == begin;
        let statement = AssertSqlSafe(sql).into_sql_str();
        // If this is cancelled, the lease is dropped while busy, and its connection is recovered.
        let begun = lease.control(Step::Long, &log, |connection| {
            Box::pin(PgTransactionManager::begin(connection, Some(statement)))
        });
        if let Err(error) = begun.await {
            if !is_plain {
                // A transaction that sqlx does not know of may be open.
                lease.mark_used();
            }
            return Err(error);
        }
        lease.note_own_sequences();
        lease.note_begun_with(settings);
        lease.set_in_transaction(true, options.read_only);
        Ok(Self { lease, lost: false })
    }

    /// Runs the closure in a transaction that `begin` begins, and runs it again as the options allow.
    pub(crate) async fn run<T, E, F, B>(
        options: &TransactionOptions,
        mut begin: impl FnMut() -> B,
        mut work: F,
    ) -> Result<T, E>
    where
        B: Future<Output = Result<Self, sqlx::Error>>,
        F: AsyncFnMut(&mut Self) -> Result<T, E>,
        E: From<sqlx::Error>,
    {
        let mut backoff = TransactionOptions::backoff();
        let mut retries = options.retries;
        loop {
            let mut transaction = begin().await?;
            let result = work(&mut transaction).await;
            let (result, retryable) = transaction.conclude(result).await;
            if result.is_ok() || !retryable || retries == 0 {
                return result;
            }
            retries -= 1;
            tokio::time::sleep(backoff.next_jittered_pause()).await;
        }
    }

    /// The name of the node it runs on.
    #[must_use]
    pub fn node(&self) -> &str {
        self.lease.node()
    }

    /// The connection itself, for functions that take `&mut PgConnection`; `&mut *tx` is the same.
    ///
    /// # Errors
    ///
    /// [`Error::TransactionLost`]: the connection may no longer be in a transaction then.
    pub fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        self.not_lost()?;
        Ok(&mut self.lease)
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// - [`Error::CommitAborted`] if a statement had failed, so that the server rolled back, or was
    ///   given up (by a timeout, say): it is cancelled, unless it has ended by then;
    /// - [`Error::NotEnded`] if the server did not end it within a second;
    /// - [`Error::CommitUnknown`] if the connection was lost before the server's answer;
    /// - [`Error::TransactionLost`] if a savepoint was cancelled half-way or left open;
    /// - otherwise the server's error; nothing is committed then, as after 25P03
    ///   (`idle_in_transaction_session_timeout`).
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
        let commit = self.lease.control(Step::Long, "COMMIT", |connection| {
            Box::pin(PgTransactionManager::commit(connection))
        });
        match commit.await {
            Ok(()) => {
                self.lease.set_in_transaction(false, false);
                Ok(())
            }
            Err(err) if refuses_commit(&err) => Err(err),
            Err(err) => Err(Error::CommitUnknown(err).into()),
        }
    }

    /// Rolls back. Dropping the transaction does so too, in the background. A statement that was given
    /// up (by a timeout, say) is cancelled, and not waited for.
    ///
    /// # Errors
    ///
    /// The connection's error, or [`Error::NotEnded`] where what was given up cannot be cancelled, as
    /// behind PgBouncer. The server rolls back by itself then.
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
            self.lease.roll_back("ROLLBACK").await?;
        }
        if !self.lost {
            self.lease.set_in_transaction(false, false);
        }
        Ok(())
    }

    /// Commits if the closure returned `Ok`, else rolls back. Also returns whether the whole
    /// transaction may be tried again.
    async fn conclude<T, E: From<sqlx::Error>>(
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

    /// sqlx's count of open levels: the transaction and its savepoints.
    pub(super) fn depth(&self) -> usize {
        PgTransactionManager::get_transaction_depth(&self.lease)
    }

    /// Asks the server whether the transaction is open and not aborted.
    pub(super) async fn is_intact(&mut self) -> Result<bool, sqlx::Error> {
        match self.send(CHECK.to_owned()).await {
            Ok(()) => Ok(true),
            Err(err) if server_keeps_session(&err) => Ok(false),
            // The connection is lost, so the server rolls back.
            Err(err) => Err(err),
        }
    }

    /// Sends a command that sqlx does not count as a level.
    pub(super) async fn send(&mut self, sql: String) -> Result<(), sqlx::Error> {
        let statement = ToSend::simple(AssertSqlSafe(sql.clone()).into_sql_str());
        let sent =
            self.lease.control(Step::Short, &sql, |connection| connection.execute(statement));
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

    pub(super) fn not_lost(&self) -> Result<(), Error> {
        if self.is_lost() { Err(Error::TransactionLost) } else { Ok(()) }
    }

    /// Refuses statements that must not run in this transaction.
    pub(super) fn admit(&self, statement: &Statement) -> Result<(), Error> {
        self.not_lost()?;
        let is_for_primary =
            || statement.may_change_session() || statement.holds(self.classifier()).is_some();
        if self.lease.was_routed_to_replica() && is_for_primary() {
            return Err(Error::NotOnReplica { node: self.node().to_owned() });
        }
        statement.refuse_control()
    }

    pub(super) fn classifier(&self) -> &Classifier {
        self.lease.classifier()
    }
}

executor_through!(&'c mut Transaction, |transaction, statement| {
    match transaction.admit(statement) {
        Ok(()) => Ok(&mut transaction.lease),
        Err(err) => Err(err.into()),
    }
});

/// For code that is generic over sqlx's `Acquire`.
///
/// `begin` through this trait sets a savepoint and returns sqlx's own guard of it. What that commits is
/// committed with this transaction, whose `commit` tells the truth as ever.
impl<'c> Acquire<'c> for &'c mut Transaction {
    type Database = Postgres;
    type Connection = &'c mut PgConnection;

    fn acquire(self) -> BoxFuture<'c, Result<&'c mut PgConnection, sqlx::Error>> {
        Box::pin(ready(self.connection().map_err(sqlx::Error::from)))
    }

    fn begin(self) -> BoxFuture<'c, Result<sqlx::Transaction<'c, Postgres>, sqlx::Error>> {
        Box::pin(async move {
            self.check_before_savepoint().await?;
            Connection::begin(self.connection()?).await
        })
    }
}

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
/// [`connection`](Transaction::connection) returns the error instead.
impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self.connection() {
            Ok(connection) => connection,
            Err(lost) => panic!("{lost}"),
        }
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
/// server refused it and kept the session, or had ended the session before it read it. An error of
/// class 08 proves nothing: it comes from a pooler that has lost its server. Nor do 57P01
/// (`pg_terminate_backend`, a shutdown) and 25P04 (`transaction_timeout`), which a server may send
/// after its commit record is written.
fn refuses_commit(err: &sqlx::Error) -> bool {
    let code = sqlstate(err).unwrap_or_default();
    let was_sent =
        !matches!(Error::of(err), Some(Error::NodeDown { sent: false, .. } | Error::Closed { .. }));
    !was_sent
        || ended_while_idle(err)
        || (server_keeps_session(err) && !code.starts_with(CONNECTION_CLASS))
}
