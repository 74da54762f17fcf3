//! What an error says that a server sent.

use std::borrow::Cow;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::error::Error;

/// The error of a server itself: not of sqlx, nor of another database.
fn of_server(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Its code, such as `40001`.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Whether that code is the server's own word, said by that routine of its source: not a function of
/// the user's own with the same code, nor a pooler.
pub(crate) fn said_by(error: &sqlx::Error, code: &str, routine: &str) -> bool {
    of_server(error).is_some_and(|error| {
        error.code() == code && error.routine().is_some_and(|name| name.starts_with(routine))
    })
}

/// Whether a statement was not run because it was prepared before its tables changed ("cached plan
/// must not change result type"). It fails so each time on that connection.
pub(crate) fn is_outdated(error: &sqlx::Error) -> bool {
    said_by(error, "0A000", "RevalidateCachedQuery")
}

/// Whether the error is the server's answer to a statement, on a session that goes on.
pub(crate) fn server_keeps_session(error: &sqlx::Error) -> bool {
    of_server(error)
        .is_some_and(|error| !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Whether the connection is lost: a FATAL of the server (terminated, starting or stopping, no
/// connection left, a conflict), or none of its words at all.
pub(crate) fn is_connection_lost(error: &sqlx::Error) -> bool {
    let may_be = matches!(
        error,
        sqlx::Error::Database(_)
            | sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed
    );
    may_be && Error::of(error).is_none() && !server_keeps_session(error)
}
