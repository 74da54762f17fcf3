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

mod detached;
mod guard;
mod options;
mod savepoint;

pub use self::detached::DetachedSavepoint;
pub use self::guard::Transaction;
pub use self::options::{IsolationLevel, TransactionOptions};
pub use self::savepoint::Savepoint;
