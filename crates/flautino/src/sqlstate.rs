//! What a server's error means. The names of the codes are those of PostgreSQL's manual, appendix A.

use std::borrow::Cow;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::error::Error;

pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
pub(crate) const CRASH_SHUTDOWN: &str = "57P02";
pub(crate) const DEADLOCK_DETECTED: &str = "40P01";
pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub(crate) const INVALID_CATALOG_NAME: &str = "3D000";
pub(crate) const INVALID_PARAMETER_VALUE: &str = "22023";
pub(crate) const INVALID_PASSWORD: &str = "28P01";
pub(crate) const INVALID_SCHEMA_NAME: &str = "3F000";
pub(crate) const IN_FAILED_TRANSACTION: &str = "25P02";
pub(crate) const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
pub(crate) const PROTOCOL_VIOLATION: &str = "08P01";
pub(crate) const QUERY_CANCELED: &str = "57014";
pub(crate) const READ_ONLY_TRANSACTION: &str = "25006";
pub(crate) const SERIALIZATION_FAILURE: &str = "40001";
pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
pub(crate) const UNDEFINED_COLUMN: &str = "42703";
pub(crate) const UNDEFINED_FUNCTION: &str = "42883";
pub(crate) const UNDEFINED_OBJECT: &str = "42704";
pub(crate) const UNDEFINED_TABLE: &str = "42P01";

/// The class of connection errors. A pooler reports a server that it has lost so.
pub(crate) const CONNECTION_CLASS: &str = "08";
/// The class of errors about the user and its password.
pub(crate) const AUTHORIZATION_CLASS: &str = "28";

/// The error as a PostgreSQL server sent it. `None` for errors of sqlx itself.
fn server_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// The error's code, such as `40001`.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// Whether the error has this code.
pub(crate) fn has_code(error: &sqlx::Error, code: &str) -> bool {
    sqlstate(error).as_deref() == Some(code)
}

/// Whether the error has this code and was raised by this routine of the server's source, as the error
/// says itself. A pooler, or a function of the user's, may raise the same code elsewhere.
pub(crate) fn said_by(error: &sqlx::Error, code: &str, routine: &str) -> bool {
    server_error(error).is_some_and(|error| {
        error.code() == code && error.routine().is_some_and(|name| name.starts_with(routine))
    })
}

/// Whether a statement was refused because it was prepared before its tables changed ("cached plan must
/// not change result type"). It will fail so each time on that connection.
pub(crate) fn is_outdated(error: &sqlx::Error) -> bool {
    said_by(error, FEATURE_NOT_SUPPORTED, "RevalidateCachedQuery")
}

/// Whether the server sent the error and keeps the session: the error is neither FATAL nor PANIC.
pub(crate) fn server_keeps_session(error: &sqlx::Error) -> bool {
    server_error(error)
        .is_some_and(|error| !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Whether the connection is lost: the server ended it with a FATAL error (terminated, shutting down,
/// too many connections, a recovery conflict), or it broke without an error of the server.
pub(crate) fn is_connection_lost(error: &sqlx::Error) -> bool {
    let may_be_lost = matches!(
        error,
        sqlx::Error::Database(_)
            | sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed
    );
    may_be_lost && !server_keeps_session(error)
}

/// Whether the server refuses the user, the password or the database, and so will refuse the next
/// connection as well.
pub(crate) fn refuses_role_or_database(code: &str) -> bool {
    code.starts_with(AUTHORIZATION_CLASS) || code == INVALID_CATALOG_NAME
}

/// The error as the caller is told it. A server that ends a session has rolled back what was not
/// committed; if that need not be the whole statement, the error says so.
pub(crate) fn tell_effect(
    error: sqlx::Error,
    commits_at_once: bool,
    completed: bool,
) -> sqlx::Error {
    let was_ended = has_code(&error, ADMIN_SHUTDOWN) || has_code(&error, CRASH_SHUTDOWN);
    if was_ended && (completed || !commits_at_once) {
        Error::EffectUnknown(error).into()
    } else {
        error
    }
}
