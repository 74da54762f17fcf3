//! The extensions that `open` creates on the primary.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::server::Server;
use crate::sql::{literal, quoted};

/// The key of the advisory lock under which extensions are created, "flautino" in ASCII. Without the
/// lock two sessions that create the same extension at once violate a unique index, even with
/// `IF NOT EXISTS`.
const EXTENSION_LOCK: i64 = 0x666c_6175_7469_6e6f;

/// Creates the extensions that are missing. Returns a warning for each that could not be created.
pub(crate) async fn create_extensions(
    server: &Server,
    connection: &mut PgConnection,
    extensions: &[String],
    timeout: Duration,
) -> Vec<String> {
    if extensions.is_empty() {
        return Vec::new();
    }
    let creating = create_missing(server, connection, extensions);
    match tokio::time::timeout(timeout, creating).await {
        Ok(Ok(warnings)) => warnings,
        Ok(Err(err)) => {
            vec![format!("node `{}`: cannot list its extensions: {err}", server.name())]
        }
        Err(_) => vec![format!(
            "node `{}`: creating extensions took longer than {timeout:?}; is another session \
             holding a lock on them?",
            server.name()
        )],
    }
}

async fn create_missing(
    server: &Server,
    connection: &mut PgConnection,
    extensions: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    let names: Vec<_> = extensions.iter().map(|name| literal(name)).collect();
    let list = names.join(", ");
    let sql =
        format!("SELECT extname::text FROM pg_catalog.pg_extension WHERE extname IN ({list})");
    let rows = server.sender.send(connection, sql).await?;
    let present: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let missing: Vec<_> = extensions.iter().filter(|name| !present.contains(name)).collect();
    let mut warnings = Vec::new();
    for name in missing {
        if server.is_replica() {
            warnings.push(format!(
                "extension \"{name}\" is missing on node `{}`, which is in recovery: create it \
                 on its primary, or leave it out of `extensions`",
                server.name()
            ));
            continue;
        }
        // One message is one transaction, so the lock is held until the extension is committed.
        let name = quoted(name);
        let sql = format!(
            "SELECT pg_advisory_xact_lock({EXTENSION_LOCK}); CREATE EXTENSION IF NOT EXISTS {name}"
        );
        if let Err(err) = server.sender.send(connection, sql).await {
            warnings.push(format!(
                "extension {name} was not created on node `{}`: {err}; install it or grant the \
                 right to create it, or leave it out of `extensions`",
                server.name()
            ));
        }
    }
    Ok(warnings)
}
