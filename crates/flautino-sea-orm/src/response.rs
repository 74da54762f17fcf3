//! SeaORM's error as a response that tells the client what it may know.

use axum_core::response::{IntoResponse, Response};
use flautino::UnknownNode;
use http::StatusCode;
use sea_orm::{DbErr, TransactionError};

use crate::error::{query_err, sqlx_error_of};

/// An error of a handler's database access, which is a response too, as [`flautino_axum::DbError`] is for sqlx's.
///
/// | cause | status |
/// |---|---|
/// | `DbErr::RecordNotFound`, `RecordNotUpdated` | 404 |
/// | `DbErr::RecordNotInserted`: all of it is there already | 409 |
/// | an error of sqlx's or flautino's | as [`flautino_axum::DbError`] says: a unique violation 409, no server 503, … |
/// | anything else | 500 |
///
/// The body depends on the status alone, so that nothing of the database shows.
///
/// ```
/// use axum_core::response::IntoResponse;
/// use sea_orm::DbErr;
///
/// let missing = DbErr::RecordNotFound("note 7".to_owned());
/// assert_eq!(flautino_sea_orm::DbError::from(missing).into_response().status(), 404);
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DbError(#[from] pub DbErr);

impl DbError {
    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match &self.0 {
            DbErr::RecordNotFound(_) | DbErr::RecordNotUpdated => StatusCode::NOT_FOUND,
            DbErr::RecordNotInserted => StatusCode::CONFLICT,
            err => sqlx_error_of(err)
                .map_or(StatusCode::INTERNAL_SERVER_ERROR, flautino_axum::DbError::status_of),
        }
    }
}

/// For handlers that query with sqlx too.
impl From<sqlx::Error> for DbError {
    fn from(err: sqlx::Error) -> Self {
        Self(query_err(err))
    }
}

impl From<UnknownNode> for DbError {
    fn from(err: UnknownNode) -> Self {
        Self::from(sqlx::Error::from(err))
    }
}

/// For closures of `transaction` that return SeaORM's error.
impl From<TransactionError<DbErr>> for DbError {
    fn from(err: TransactionError<DbErr>) -> Self {
        match err {
            TransactionError::Connection(err) | TransactionError::Transaction(err) => Self(err),
        }
    }
}

/// For closures of `transaction` that return this error.
impl From<TransactionError<Self>> for DbError {
    fn from(err: TransactionError<Self>) -> Self {
        match err {
            TransactionError::Connection(err) => Self(err),
            TransactionError::Transaction(err) => err,
        }
    }
}

impl IntoResponse for DbError {
    fn into_response(self) -> Response {
        flautino_axum::DbError::respond(self.status(), &self.0)
    }
}
