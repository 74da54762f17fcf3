//! What an error says that a server sent. The codes are those of PostgreSQL's manual, appendix A.

use std::borrow::Cow;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::error::Error;

pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
pub(crate) const DEADLOCK_DETECTED: &str = "40P01";
pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub(crate) const INVALID_CATALOG_NAME: &str = "3D000";
pub(crate) const INVALID_PARAMETER_VALUE: &str = "22023";
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

/// The class of errors about connections, which a pooler uses for a server that it has lost.
pub(crate) const CONNECTION_CLASS: &str = "08";
/// The class of errors about the role and its password.
pub(crate) const AUTHORIZATION_CLASS: &str = "28";

/// The error of a server itself: not of sqlx, nor of another database.
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

/// Whether that code is the server's own word, said by that routine of its source: not a function of
/// the user's own with the same code, nor a pooler.
pub(crate) fn said_by(error: &sqlx::Error, code: &str, routine: &str) -> bool {
    server_error(error).is_some_and(|error| {
        error.code() == code && error.routine().is_some_and(|name| name.starts_with(routine))
    })
}

/// Whether a statement was not run because it was prepared before its tables changed ("cached plan
/// must not change result type"). It fails so each time on that connection.
pub(crate) fn is_outdated(error: &sqlx::Error) -> bool {
    said_by(error, FEATURE_NOT_SUPPORTED, "RevalidateCachedQuery")
}

/// Whether the error is the server's answer to a statement, on a session that goes on.
pub(crate) fn server_keeps_session(error: &sqlx::Error) -> bool {
    server_error(error)
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

/// Whether a server will go on refusing connections so: it does not accept the role, the password or
/// the database.
pub(crate) fn refuses_role_or_database(code: &str) -> bool {
    code.starts_with(AUTHORIZATION_CLASS) || code == INVALID_CATALOG_NAME
}
