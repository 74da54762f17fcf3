//! What `open` does once on a node: asks for role and version, creates the extensions.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use crate::node::{Node, Role};
use crate::transaction::quoted;

/// The oldest version that is tested with.
const OLDEST_SUPPORTED: i32 = 130_000;

/// The advisory lock under which extensions are created: two sessions that create the same one
/// at once collide on a unique index, `IF NOT EXISTS` or not. The key is "flautino" in ASCII.
const EXTENSION_LOCK: i64 = 0x666c_6175_7469_6e6f;

/// Asks the server what it is.
pub(crate) async fn probe(node: &Node, connection: &mut PgConnection) -> Result<Role, sqlx::Error> {
    const PROBE: &str = "SELECT pg_is_in_recovery(), \
                         current_setting('server_version_num')::int4, \
                         current_setting('server_version')";
    let rows = node.send(connection, PROBE.to_owned()).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let role = if row.try_get(0)? { Role::Replica } else { Role::Primary };
    let (number, version): (i32, String) = (row.try_get(1)?, row.try_get(2)?);
    if number < OLDEST_SUPPORTED {
        tracing::warn!(
            node = %node.name, %version,
            "PostgreSQL {version} is older than 13, the oldest version flautino supports"
        );
    }
    tracing::debug!(node = %node.name, ?role, %version, "probed");
    Ok(role)
}

/// When a server was started, in microseconds since 1970; a macro, for `concat!`.
macro_rules! server_start {
    () => {
        "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8"
    };
}
pub(crate) use server_start;

/// Asks the server behind a connection when it was started, in microseconds since 1970.
pub(crate) async fn started(
    node: &Node,
    connection: &mut PgConnection,
) -> Result<i64, sqlx::Error> {
    const ASK: &str = concat!("SELECT ", server_start!());
    let rows = node.send(connection, ASK.to_owned()).await?;
    rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
}

/// Creates the extensions that are missing. Answers a warning for each that is missing still.
pub(crate) async fn create_extensions(
    node: &Node,
    connection: &mut PgConnection,
    extensions: &[String],
    timeout: Duration,
) -> Vec<String> {
    if extensions.is_empty() {
        return Vec::new();
    }
    let creating = create_missing(node, connection, extensions);
    match tokio::time::timeout(timeout, creating).await {
        Ok(Ok(warnings)) => warnings,
        Ok(Err(err)) => vec![format!("node `{}`: cannot list its extensions: {err}", node.name)],
        Err(_) => vec![format!(
            "node `{}`: creating extensions took longer than {timeout:?}; is another session \
             holding a lock on them?",
            node.name
        )],
    }
}

async fn create_missing(
    node: &Node,
    connection: &mut PgConnection,
    extensions: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    let names: Vec<_> = extensions.iter().map(|name| literal(name)).collect();
    let list = names.join(", ");
    let sql =
        format!("SELECT extname::text FROM pg_catalog.pg_extension WHERE extname IN ({list})");
    let rows = node.send(connection, sql).await?;
    let present: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let missing: Vec<_> = extensions.iter().filter(|name| !present.contains(name)).collect();
    let mut warnings = Vec::new();
    for name in missing {
        if node.is_replica() {
            warnings.push(format!(
                "extension \"{name}\" is missing on node `{}`, which is in recovery: create it \
                 on its primary, or leave it out of `extensions`",
                node.name
            ));
            continue;
        }
        // One message, and so one transaction: the lock lasts until the extension is there.
        let name = quoted(name);
        let sql = format!(
            "SELECT pg_advisory_xact_lock({EXTENSION_LOCK}); CREATE EXTENSION IF NOT EXISTS {name}"
        );
        if let Err(err) = node.send(connection, sql).await {
            warnings.push(format!(
                "extension {name} was not created on node `{}`: {err}; install it or grant the \
                 right to create it, or leave it out of `extensions`",
                node.name
            ));
        }
    }
    Ok(warnings)
}

/// A string constant that no setting of the server reads otherwise.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
