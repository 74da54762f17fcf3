//! sqlx's and flautino's errors as SeaORM's, and how to find them there again.

use std::sync::Arc;

use flautino::Error;
use sea_orm::{DbErr, RuntimeErr};

/// Returns sqlx's error inside of SeaORM's, if there is one: with it the SQLSTATE, the constraint, the detail.
#[must_use]
pub fn sqlx_error_of(err: &DbErr) -> Option<&sqlx::Error> {
    match err {
        DbErr::Conn(RuntimeErr::SqlxError(err))
        | DbErr::Exec(RuntimeErr::SqlxError(err))
        | DbErr::Query(RuntimeErr::SqlxError(err)) => Some(err),
        _ => None,
    }
}

/// Returns flautino's own error inside of SeaORM's, if there is one, as [`Error::of`] does for sqlx's.
///
/// ```
/// use flautino::Error;
/// use flautino_sea_orm::error_of;
/// use sea_orm::DbErr;
///
/// fn is_worth_another_try(err: &DbErr) -> bool {
///     matches!(error_of(err), Some(Error::NoPrimary { .. } | Error::AcquireTimeout { .. }))
/// }
/// # assert!(!is_worth_another_try(&DbErr::RecordNotInserted));
/// ```
#[must_use]
pub fn error_of(err: &DbErr) -> Option<&Error> {
    sqlx_error_of(err).and_then(Error::of)
}

/// The error of a statement that was to change something.
pub(crate) fn exec_err(err: sqlx::Error) -> DbErr {
    wrap(DbErr::Exec, err)
}

/// The error of a statement that was to return rows, or of a step of a transaction.
pub(crate) fn query_err(err: sqlx::Error) -> DbErr {
    wrap(DbErr::Query, err)
}

/// `DbErr::Conn` where there was no connection to send anything over.
fn wrap(variant: fn(RuntimeErr) -> DbErr, err: sqlx::Error) -> DbErr {
    let variant = if is_without_connection(&err) { DbErr::Conn } else { variant };
    variant(RuntimeErr::SqlxError(Arc::new(err)))
}

fn is_without_connection(err: &sqlx::Error) -> bool {
    match Error::of(err) {
        Some(err) => matches!(
            err,
            Error::AcquireTimeout { .. }
                | Error::Closed { .. }
                | Error::RuntimeEnded { .. }
                | Error::NodeDown { sent: false, .. }
                | Error::Overloaded { .. }
                | Error::NoPrimary { .. }
                | Error::UnknownNode(_)
        ),
        None => matches!(err, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed),
    }
}

/// A mistake in how a transaction is used, which sqlx's borrows would not compile.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misuse {
    #[error(
        "a transaction that is nested in this one is open, and would take along what is done here; \
         go on with the nested one, or commit or roll it back first"
    )]
    NestedOpen,
    #[error(
        "the transaction was not committed: one that is nested in it was still open, and nobody can \
         tell whether its changes were meant to stay; commit or roll back the nested one first"
    )]
    CommittedWithNested,
    #[error(
        "the transaction's connection is in use by a stream of rows or by `lock`; read the stream to \
         its end, or drop it, before the next statement"
    )]
    Held,
    #[error(
        "this nested transaction is over, because the one that it is nested in was committed, rolled \
         back or dropped, or the request's response was made; begin it anew"
    )]
    Over,
}

impl From<Misuse> for DbErr {
    fn from(err: Misuse) -> Self {
        Self::Custom(err.to_string())
    }
}
