//! An sqlx error as a response that tells the client what it may know.

use std::io::ErrorKind;

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use flautino::{Error, UnknownNode};
use http::{HeaderValue, StatusCode, header};

/// What a handler answers when the database said no.
///
/// | cause | status |
/// |---|---|
/// | row not found | 404 |
/// | unique violation | 409 |
/// | no connection in time, no primary, overloaded, engine closed, server down, starting or full | 503 with `Retry-After: 1` |
/// | anything else | 500 |
///
/// The body is `{"error": "…"}` and says no more than that. The cause of a 500 is logged as an
/// error, that of a 503 as a warning.
///
/// ```
/// use axum_core::response::IntoResponse;
///
/// let response = flautino_axum::DbError::from(sqlx::Error::RowNotFound).into_response();
/// assert_eq!(response.status(), 404);
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DbError(#[from] pub sqlx::Error);

impl From<Error> for DbError {
    fn from(err: Error) -> Self {
        Self(err.into())
    }
}

impl From<UnknownNode> for DbError {
    fn from(err: UnknownNode) -> Self {
        Self(err.into())
    }
}

impl DbError {
    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match (&self.0, Error::of(&self.0)) {
            (
                _,
                Some(
                    Error::AcquireTimeout { .. }
                    | Error::Closed { .. }
                    | Error::NoPrimary { .. }
                    | Error::Overloaded { .. }
                    | Error::NodeDown { sent: false, .. },
                ),
            )
            | (sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed, _) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // Before `open`, where no pool waits for the server.
            (sqlx::Error::Io(err), None)
                if matches!(err.kind(), ErrorKind::ConnectionRefused | ErrorKind::TimedOut) =>
            {
                StatusCode::SERVICE_UNAVAILABLE
            }
            (sqlx::Error::RowNotFound, _) => StatusCode::NOT_FOUND,
            (sqlx::Error::Database(err), _) => match err.code().as_deref() {
                Some("23505") => StatusCode::CONFLICT,
                // too_many_connections, cannot_connect_now
                Some("53300" | "57P03") => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            },
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for DbError {
    fn into_response(self) -> Response {
        let status = self.status();
        let text = match status {
            StatusCode::NOT_FOUND => "not found",
            StatusCode::CONFLICT => "this exists already",
            StatusCode::SERVICE_UNAVAILABLE => {
                tracing::warn!(error = %self.0, "the database is not available");
                "the database is not available, try again"
            }
            _ => {
                tracing::error!(error = %self.0, "a query failed");
                "internal error"
            }
        };
        let mut response = Response::new(Body::from(format!("{{\"error\":\"{text}\"}}")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
