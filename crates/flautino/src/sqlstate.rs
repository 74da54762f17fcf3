//! What a server's error means. The names of the codes are those of PostgreSQL's manual, appendix A.

use std::borrow::Cow;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::error::Error;

pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
pub(crate) const AMBIGUOUS_FUNCTION: &str = "42725";
pub(crate) const CANNOT_COERCE: &str = "42846";
pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
pub(crate) const CRASH_SHUTDOWN: &str = "57P02";
pub(crate) const DATATYPE_MISMATCH: &str = "42804";
pub(crate) const DEADLOCK_DETECTED: &str = "40P01";
pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
pub(crate) const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: &str = "25P03";
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub(crate) const INDETERMINATE_DATATYPE: &str = "42P18";
pub(crate) const INTERNAL_ERROR: &str = "XX000";
pub(crate) const INVALID_CATALOG_NAME: &str = "3D000";
pub(crate) const INVALID_PARAMETER_VALUE: &str = "22023";
pub(crate) const INVALID_PASSWORD: &str = "28P01";
pub(crate) const INVALID_SCHEMA_NAME: &str = "3F000";
pub(crate) const INVALID_STATEMENT_NAME: &str = "26000";
pub(crate) const INVALID_TEXT_REPRESENTATION: &str = "22P02";
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
pub(crate) const WRONG_OBJECT_TYPE: &str = "42809";

/// What sqlx begins the names of the statements with that it keeps prepared.
pub(crate) const SQLX_STATEMENT: &str = "sqlx_s_";

/// The class of connection errors. A pooler reports a server that it has lost so.
pub(crate) const CONNECTION_CLASS: &str = "08";
/// Insufficient resources, system error, internal error.
const FAULT_CLASSES: [&str; 3] = ["53", "58", "XX"];
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

/// What kind of error it is, for telemetry: the server's code, else the kind of the driver's. It has no values.
pub(crate) fn error_type(error: &sqlx::Error) -> Cow<'_, str> {
    if let Some(own) = Error::of(error) {
        return own.kind().into();
    }
    let kind = match error {
        sqlx::Error::Io(_) => "io",
        sqlx::Error::Tls(_) => "tls",
        sqlx::Error::Protocol(_) => "protocol",
        sqlx::Error::Encode(_) => "encode",
        _ => "_OTHER",
    };
    sqlstate(error).unwrap_or(kind.into())
}

/// Whether the server or the way to it is at fault, and not what the statement asks for: the connection is
/// lost, the node is down, the server lacks what it needs or has a fault of its own.
pub(crate) fn is_fault_of_server(error: &sqlx::Error) -> bool {
    if let Some(own) = Error::of(error) {
        return matches!(own, Error::NodeDown { .. } | Error::NotEnded { .. });
    }
    let is_class = |code: Cow<'_, str>| FAULT_CLASSES.iter().any(|class| code.starts_with(class));
    is_connection_lost(error) || sqlstate(error).is_some_and(is_class)
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

/// Whether the server ended the session because its transaction was idle for too long
/// (`idle_in_transaction_session_timeout`). It then has not read what was sent last: its timer runs only
/// while it waits for a command, and it is turned off, and asked a last time, before the command is
/// looked at.
pub(crate) fn ended_while_idle(error: &sqlx::Error) -> bool {
    said_by(error, IDLE_IN_TRANSACTION_SESSION_TIMEOUT, "ProcessInterrupts")
}

/// Whether a statement was refused because of what sqlx remembers for its connection: a prepared
/// statement that was dropped, or was prepared before its tables changed, or the number of a type that
/// was dropped. It will fail so each time on that connection, until sqlx forgets.
pub(crate) fn is_outdated(error: &sqlx::Error) -> bool {
    let Some(server) = server_error(error) else { return false };
    match server.code() {
        // "cached plan must not change result type"
        FEATURE_NOT_SUPPORTED => said_by(error, FEATURE_NOT_SUPPORTED, "RevalidateCachedQuery"),
        // Named as sqlx names them; another one is the user's own.
        // One without a name is lost when sqlx asks for types that it meets for the first time.
        INVALID_STATEMENT_NAME => {
            server.message().contains(SQLX_STATEMENT)
                || said_by(error, INVALID_STATEMENT_NAME, "exec_bind_message")
        }
        // Raised by routines in many places. The server does not translate its internal errors.
        INTERNAL_ERROR => server.message().starts_with("cache lookup failed for "),
        // "type with OID … does not exist", "type … is only a shell"
        UNDEFINED_OBJECT => said_by(error, UNDEFINED_OBJECT, "lookup_type_cache"),
        _ => false,
    }
}

/// Whether a value may have been refused because sqlx remembers a number for its type that belongs to
/// another type by now: one was renamed, and another got its name. It may as well be the app's mistake.
pub(crate) fn may_have_outdated_types(error: &sqlx::Error) -> bool {
    let Some(server) = server_error(error) else { return false };
    match server.code() {
        // What a parser says of a type that does not fit its place.
        AMBIGUOUS_FUNCTION
        | CANNOT_COERCE
        | DATATYPE_MISMATCH
        | INDETERMINATE_DATATYPE
        | UNDEFINED_FUNCTION
        | UNDEFINED_OBJECT
        | WRONG_OBJECT_TYPE
            if server.r#where().is_none() =>
        {
            true
        }
        code => is_refused_value(code, server.routine()),
    }
}

/// Whether the server refused a value as it read it, because it knows the value's type otherwise: it has
/// no such label, or other fields.
pub(crate) fn lacks_value(error: &sqlx::Error) -> bool {
    server_error(error).is_some_and(|error| is_refused_value(error.code(), error.routine()))
}

fn is_refused_value(code: &str, routine: Option<&str>) -> bool {
    matches!(
        (code, routine),
        (INVALID_TEXT_REPRESENTATION, Some("enum_recv" | "enum_in"))
            | (DATATYPE_MISMATCH, Some("array_recv" | "record_recv"))
    )
}

/// Whether the server refused a statement before it ran, given that it [is outdated](is_outdated): as it
/// looked for it, planned it or read its values, and not inside a procedure that it calls.
pub(crate) fn was_refused_unrun(error: &sqlx::Error) -> bool {
    server_error(error).is_some_and(|error| {
        let reads_values = ["getTypeBinaryInputInfo", "enum_recv", "array_recv", "record_recv"];
        error.r#where().is_none()
            || error.routine().is_some_and(|name| reads_values.contains(&name))
    })
}

/// Whether sqlx's prepared statement is missing, or does not fit its tables any more.
pub(crate) fn must_prepare_anew(error: &sqlx::Error) -> bool {
    is_outdated(error)
        && (has_code(error, INVALID_STATEMENT_NAME) || has_code(error, FEATURE_NOT_SUPPORTED))
}

/// Whether sqlx itself refused the statement: a type that the server does not have, a value that cannot
/// be encoded or is too long, a type that sqlx cannot read. Nothing of the statement was sent, or all
/// that was sent is answered, so that the connection is as good as before.
pub(crate) fn is_refused_by_driver(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::Encode(_)
        | sqlx::Error::InvalidArgument(_)
        | sqlx::Error::ColumnDecode { .. } => true,
        // From `put_length_prefixed`, before the message is in the buffer.
        sqlx::Error::Protocol(text) => text.starts_with("message size out of range"),
        _ => false,
    }
}

/// Whether a standby refused the statement because it is one: the statement writes, or reads what only
/// a primary has. The server's own routines say so, so neither a value nor a function of the user's is to
/// blame.
pub(crate) fn needs_primary(error: &sqlx::Error) -> bool {
    let Some(error) = server_error(error) else { return false };
    let routine = error.routine().unwrap_or_default();
    match error.code() {
        READ_ONLY_TRANSACTION => routine.starts_with("PreventCommand"),
        // Writes that the server does not guard, such as of large objects before version 16.
        INTERNAL_ERROR => {
            matches!(routine, "GetNewObjectId" | "GetNewTransactionId" | "XLogBeginInsert")
        }
        // An unlogged table.
        FEATURE_NOT_SUPPORTED => routine == "get_relation_info",
        // The position of the log that is written.
        OBJECT_NOT_IN_PREREQUISITE_STATE => error.file() == Some("xlogfuncs.c"),
        _ => false,
    }
}

/// Whether the server sent the error and keeps the session: the error is neither FATAL nor PANIC.
pub(crate) fn server_keeps_session(error: &sqlx::Error) -> bool {
    server_error(error).is_some_and(|error| !ends_session(error))
}

/// Whether PostgreSQL itself says with the error that it ended the session: the error is FATAL or PANIC, and
/// names the routine that raised it. A pooler may end a client whose server goes on.
pub(crate) fn server_ended_session(error: &sqlx::Error) -> bool {
    server_error(error).is_some_and(|error| ends_session(error) && error.routine().is_some())
}

fn ends_session(error: &PgDatabaseError) -> bool {
    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
}

/// Whether the connection is lost: the server ended it with a FATAL error (terminated, shutting down,
/// too many connections, a recovery conflict), or it broke without an error of the server, or TLS failed.
pub(crate) fn is_connection_lost(error: &sqlx::Error) -> bool {
    let may_be_lost = matches!(
        error,
        sqlx::Error::Database(_)
            | sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::WorkerCrashed
    );
    may_be_lost && !server_keeps_session(error) && !is_refused_by_driver(error)
}

/// Whether the server, the database, the role or a pooler takes no more connections.
pub(crate) fn refuses_more(error: &sqlx::Error) -> bool {
    // PgBouncer says so with a code that means many things.
    let is_pooler_full = |error: &PgDatabaseError| {
        error.code() == PROTOCOL_VIOLATION
            && error.message().contains("no more connections allowed")
    };
    has_code(error, TOO_MANY_CONNECTIONS) || server_error(error).is_some_and(is_pooler_full)
}

/// Whether the server refuses the user, the password or the database, and so will refuse the next
/// connection as well.
pub(crate) fn refuses_role_or_database(code: &str) -> bool {
    code.starts_with(AUTHORIZATION_CLASS)
        || matches!(code, INVALID_CATALOG_NAME | INSUFFICIENT_PRIVILEGE)
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
