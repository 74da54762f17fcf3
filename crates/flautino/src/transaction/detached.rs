//! [`DetachedSavepoint`]: a savepoint that is open and does not borrow its transaction.

use super::guard::Transaction;
use super::savepoint::Savepoint;
use crate::lease::Failures;

/// A savepoint that is open and does not borrow its transaction, for code that cannot hold the borrow, such
/// as an ORM whose transactions are shared. [`Transaction::attach`] makes a [`Savepoint`] of it again, to end it.
///
/// While it is detached, all that runs in the transaction runs inside of the savepoint, and the transaction
/// cannot be committed ([`Error::TransactionLost`](crate::Error::TransactionLost)): nobody could tell whether
/// the changes since the savepoint were meant to stay. So it is when this value is dropped.
///
/// ```no_run
/// # async fn f(db: flautino::Handle) -> Result<(), sqlx::Error> {
/// let mut tx = db.begin().await?;
/// let attempt = tx.savepoint().await?.detach();
/// sqlx::query("INSERT INTO notes (title) VALUES ('a')").execute(&mut tx).await?;
/// tx.attach(attempt).rollback().await?;
/// tx.commit().await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the transaction cannot be committed before the savepoint is attached and ended"]
pub struct DetachedSavepoint {
    failures_before: Failures,
    level: usize,
}

impl Savepoint<'_> {
    /// Leaves the savepoint open, and gives the transaction back to who lent it.
    pub fn detach(mut self) -> DetachedSavepoint {
        self.open = false;
        DetachedSavepoint { failures_before: self.failures_before, level: self.level }
    }
}

impl Transaction {
    /// Takes up a savepoint of this transaction that was [detached](Savepoint::detach). It must be the
    /// innermost one: else nothing can be done with it, and the transaction is lost
    /// ([`Error::TransactionLost`](crate::Error::TransactionLost)).
    #[expect(clippy::needless_pass_by_value, reason = "it is attached once")]
    pub fn attach(&mut self, savepoint: DetachedSavepoint) -> Savepoint<'_> {
        let DetachedSavepoint { failures_before, level } = savepoint;
        Savepoint { transaction: self, failures_before, level, open: true }
    }
}
