//! What a test needs of its servers that not every version or build of PostgreSQL offers.
//!
//! Where it is missing, a line on stdout says so, and the test skips that part. With the programs that
//! the machine has by itself, a test under `CI=true` fails instead: only those that `FLAUTINO_PG_BIN` names
//! may lack something.

use std::env::{var, var_os};

use flautino_cluster::Node;

use crate::server::ask;

/// Whether the server's major version is this one or a newer one. `what` says what an older one lacks.
pub async fn is_since(major: i32, node: &Node, what: &str) -> bool {
    let number = "SELECT current_setting('server_version_num')::int4 / 10000";
    let own: i32 = ask(node, number).await;
    own >= major || missing(&format!("PostgreSQL {own} has no {what}"))
}

/// Whether the server can create all of these extensions.
pub async fn has_extensions(node: &Node, names: &[&str]) -> bool {
    for name in names {
        let available =
            format!("SELECT count(*) FROM pg_available_extensions WHERE name = '{name}'");
        if ask::<i64>(node, &available).await == 0 {
            return missing(&format!("this build of PostgreSQL has no extension {name}"));
        }
    }
    true
}

/// Says what is missing. Returns `false`.
fn missing(what: &str) -> bool {
    let is_named = var_os("FLAUTINO_PG_BIN").is_some_and(|folder| !folder.is_empty());
    let is_ci = var("CI").is_ok_and(|ci| ci == "true");
    assert!(is_named || !is_ci, "{what}, and CI needs it");
    println!("skipped: {what}");
    false
}
