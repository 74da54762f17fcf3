//! An sqlx error as a response that tells the client what it may know.

use std::fmt;
use std::io::ErrorKind;

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};
use flautino::{DeadlineStep, Error, UnknownNode};
use http::{HeaderValue, StatusCode, header};

// SQLSTATE codes, by the names that PostgreSQL gives them.
const UNIQUE_VIOLATION: &str = "23505";
const PROTOCOL_VIOLATION: &str = "08P01";
const TOO_MANY_CONNECTIONS: &str = "53300";
const ADMIN_SHUTDOWN: &str = "57P01";
const CRASH_SHUTDOWN: &str = "57P02";
const CANNOT_CONNECT_NOW: &str = "57P03";

/// The media type of problem details, RFC 9457.
const PROBLEM: &str = "application/problem+json";

/// How PgBouncer's messages begin for a client that it sends away before it has given it a server.
const SENT_AWAY_BY_POOLER: [&str; 3] =
    ["query_wait_timeout", "no more connections allowed", "server login has been failing"];

/// An error of a handler's database access, which is a response too.
///
/// | cause | status |
/// |---|---|
/// | row not found | 404 |
/// | unique violation | 409 |
/// | no connection in time, no primary, overloaded, engine closed | 503 with `Retry-After: 1` |
/// | server down, starting, full, or shut down before the statement was done; a pooler's queue is full | 503 with `Retry-After: 1` |
/// | the deadline passed: before the statement was sent | 503 with `Retry-After: 1` |
/// | while it was under way | 504 |
/// | anything else | 500 |
///
/// A 503 says that the statement had no effect. What may have had one, such as a connection that was
/// lost without a word, is a 500.
///
/// The body is a problem detail (RFC 9457, `application/problem+json`), whose `title` and `detail` depend on
/// the status alone, so that nothing of the database shows. The cause of a 500 is logged as an error, that of
/// a 503 as a warning.
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
    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        Self::status_of(&self.0)
    }

    /// Returns the status that the table says for an error, for errors of one's own that have one of sqlx inside.
    #[must_use]
    pub fn status_of(error: &sqlx::Error) -> StatusCode {
        match error {
            sqlx::Error::RowNotFound => StatusCode::NOT_FOUND,
            sqlx::Error::Database(err) if err.code().as_deref() == Some(UNIQUE_VIOLATION) => {
                StatusCode::CONFLICT
            }
            err if is_unavailable(err) => StatusCode::SERVICE_UNAVAILABLE,
            err if is_late(err) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the response of this status, which tells nothing of the error, and logs the error as [`DbError`] is.
    #[must_use]
    pub fn respond(status: StatusCode, error: &dyn fmt::Display) -> Response {
        match status {
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => {}
            StatusCode::SERVICE_UNAVAILABLE => {
                tracing::warn!(%error, "the database is not available");
            }
            StatusCode::GATEWAY_TIMEOUT => tracing::warn!(%error, "the database took too long"),
            _ => tracing::error!(%error, "a query failed"),
        }
        problem(status)
    }
}

/// Whether the request's deadline passed while the statement was under way.
fn is_late(err: &sqlx::Error) -> bool {
    matches!(Error::of(err), Some(Error::DeadlineExceeded { step: DeadlineStep::Running }))
}

/// Whether the statement provably had no effect, because there was no server or no connection to run
/// it.
fn is_unavailable(err: &sqlx::Error) -> bool {
    if let Some(err) = Error::of(err) {
        return matches!(
            err,
            Error::AcquireTimeout { .. }
                | Error::Closed { .. }
                | Error::NoPrimary { .. }
                | Error::Overloaded { .. }
                | Error::NodeDown { sent: false, .. }
                | Error::DeadlineExceeded { step: DeadlineStep::Waiting }
        );
    }
    match err {
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        // Before `open` no pool waits for the server, so its refusal arrives here.
        sqlx::Error::Io(err) => {
            matches!(err.kind(), ErrorKind::ConnectionRefused | ErrorKind::TimedOut)
        }
        sqlx::Error::Database(err) => match err.code().as_deref() {
            // The server could not be reached, or it ended the statement. What may have committed
            // before that is an `Error::EffectUnknown`.
            Some(TOO_MANY_CONNECTIONS | CANNOT_CONNECT_NOW | ADMIN_SHUTDOWN | CRASH_SHUTDOWN) => {
                true
            }
            Some(PROTOCOL_VIOLATION) => {
                SENT_AWAY_BY_POOLER.iter().any(|text| err.message().starts_with(text))
            }
            _ => false,
        },
        _ => false,
    }
}

impl IntoResponse for DbError {
    fn into_response(self) -> Response {
        Self::respond(self.status(), &self.0)
    }
}

/// Problem details that depend on the status alone.
pub(crate) fn problem(status: StatusCode) -> Response {
    let detail = match status {
        StatusCode::NOT_FOUND => "there is no such thing",
        StatusCode::CONFLICT => "this exists already",
        StatusCode::SERVICE_UNAVAILABLE => "the database is not available, try again",
        StatusCode::GATEWAY_TIMEOUT => "the database took too long",
        _ => "the request could not be served",
    };
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = format!(
        r#"{{"type":"about:blank","title":"{title}","status":{code},"detail":"{detail}"}}"#
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
