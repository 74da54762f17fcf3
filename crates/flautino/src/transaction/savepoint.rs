//! [`Savepoint`]: a part of a transaction that can be undone on its own.

use std::fmt;
use std::future::ready;
use std::ops::{Deref, DerefMut};

use futures_core::future::BoxFuture;
use sqlx::{Acquire, PgConnection, Postgres};
use sqlx_core::transaction::TransactionManager;
use sqlx_postgres::PgTransactionManager;

use super::guard::{CHECK, Transaction};
use crate::error::Error;
use crate::lease::executor::executor_through;
use crate::lease::{Failures, Step};
use crate::sql::quoted;

/// Part of a transaction that can be undone on its own. Dropped, it rolls back to its start.
///
/// Statements go through `&mut savepoint`. Savepoints nest: a savepoint dereferences to its
/// [`Transaction`], which has [`savepoint`](Transaction::savepoint).
pub struct Savepoint<'t> {
    pub(super) transaction: &'t mut Transaction,
    /// The transaction's failures when the savepoint was set. Rolling back to the savepoint undoes
    /// later ones.
    pub(super) failures_before: Failures,
    /// sqlx's depth while this savepoint is the innermost level.
    pub(super) level: usize,
    pub(super) open: bool,
}

impl Transaction {
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

    /// As [`savepoint`](Transaction::savepoint), under the name that sqlx's users know it by.
    ///
    /// It comes before the methods of that name in sqlx's `Acquire` and `Connection`, which return
    /// sqlx's own guard.
    ///
    /// # Errors
    ///
    /// As [`savepoint`](Transaction::savepoint).
    ///
    /// # Cancellation
    ///
    /// As [`savepoint`](Transaction::savepoint).
    pub async fn begin(&mut self) -> Result<Savepoint<'_>, sqlx::Error> {
        self.savepoint().await
    }

    /// Fails if the server would refuse a savepoint. sqlx would queue a rollback of the whole
    /// transaction then.
    pub(super) async fn check_before_savepoint(&mut self) -> Result<(), sqlx::Error> {
        self.not_lost()?;
        let Failures { any, unwatched, .. } = self.lease.failures;
        if any || unwatched {
            self.send(CHECK.to_owned()).await?;
        }
        Ok(())
    }

    async fn set_savepoint(&mut self, name: Option<&str>) -> Result<Savepoint<'_>, sqlx::Error> {
        self.check_before_savepoint().await?;
        self.lost = true;
        let log = format!("SAVEPOINT _sqlx_savepoint_{}", self.depth());
        self.lease
            .control(Step::Short, &log, |connection| {
                Box::pin(PgTransactionManager::begin(connection, None))
            })
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
}

impl Savepoint<'_> {
    /// Sets a savepoint inside of this one, as [`Transaction::begin`] does.
    ///
    /// # Errors
    ///
    /// As [`Transaction::savepoint`].
    ///
    /// # Cancellation
    ///
    /// As [`Transaction::savepoint`].
    pub async fn begin(&mut self) -> Result<Savepoint<'_>, sqlx::Error> {
        self.transaction.begin().await
    }

    /// Keeps the changes since the savepoint. They are committed or rolled back with the
    /// transaction.
    ///
    /// # Errors
    ///
    /// The server's error, such as 25P02 if a statement after the savepoint has failed. The
    /// transaction is then rolled back to the savepoint.
    ///
    /// # Cancellation
    ///
    /// If this is dropped half-way, the whole transaction is lost, as with
    /// [`Transaction::savepoint`].
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.ensure_innermost()?;
        let log = format!("RELEASE {}", self.name());
        // Once `RELEASE` is sent, the savepoint may be gone, so that nothing can be rolled back to
        // it.
        self.transaction.lost = true;
        let release = self.transaction.lease.control(Step::Short, &log, |connection| {
            Box::pin(PgTransactionManager::commit(connection))
        });
        let released = release.await;
        self.transaction.lost = false;
        released?;
        self.open = false;
        Ok(())
    }

    /// Undoes the changes since the savepoint. The transaction goes on, even if one of its
    /// statements had failed. One that was given up is cancelled.
    ///
    /// # Errors
    ///
    /// The connection's error.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: if this is dropped half-way, the changes are undone all the same.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.ensure_innermost()?;
        let log = format!("ROLLBACK TO {}", self.name());
        self.transaction.lease.roll_back(&log).await?;
        self.open = false;
        self.forget_failures();
        Ok(())
    }

    /// The name that sqlx gives the savepoint, for the log.
    fn name(&self) -> String {
        format!("SAVEPOINT _sqlx_savepoint_{}", self.level.saturating_sub(1))
    }

    /// Fails with [`Error::TransactionLost`] unless this savepoint is the innermost open level.
    fn ensure_innermost(&mut self) -> Result<(), Error> {
        self.transaction.lost |= self.transaction.depth() != self.level;
        self.transaction.not_lost()
    }

    /// Forgets the failures since the savepoint, because rolling back to it has undone them.
    fn forget_failures(&mut self) {
        let Failures { any, retryable, .. } = self.failures_before;
        let failures = &mut self.transaction.lease.failures;
        (failures.any, failures.retryable) = (any, retryable);
    }
}

executor_through!(&'c mut Savepoint<'_>, |savepoint, statement| {
    match savepoint.ensure_innermost().and_then(|()| savepoint.transaction.admit(statement)) {
        Ok(()) => Ok(&mut savepoint.transaction.lease),
        Err(err) => Err(err.into()),
    }
});

/// For code that is generic over sqlx's `Acquire`, as that of [`Transaction`].
impl<'c> Acquire<'c> for &'c mut Savepoint<'_> {
    type Database = Postgres;
    type Connection = &'c mut PgConnection;

    fn acquire(self) -> BoxFuture<'c, Result<&'c mut PgConnection, sqlx::Error>> {
        match self.ensure_innermost() {
            Ok(()) => Acquire::acquire(&mut *self.transaction),
            Err(lost) => Box::pin(ready(Err(lost.into()))),
        }
    }

    fn begin(self) -> BoxFuture<'c, Result<sqlx::Transaction<'c, Postgres>, sqlx::Error>> {
        match self.ensure_innermost() {
            Ok(()) => Acquire::begin(&mut *self.transaction),
            Err(lost) => Box::pin(ready(Err(lost.into()))),
        }
    }
}

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
        if self.open && self.ensure_innermost().is_ok() {
            let log = format!("ROLLBACK TO {}", self.name());
            self.transaction.lease.queue_rollback(&log);
            // The cancel of a statement that still runs may hit the rollback that is queued behind it.
            if !self.transaction.lease.is_pending() {
                self.forget_failures();
            }
        }
    }
}

impl fmt::Debug for Savepoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint").field("transaction", &self.transaction).finish()
    }
}
