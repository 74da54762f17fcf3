//! What a test asks of an engine, and which node served it.

use flautino::{Engine, Handle, NodeStatus};
use sqlx::AssertSqlSafe;

use crate::wait_until_or_tell;

/// Runs one statement.
///
/// # Errors
/// Those of the statement.
pub async fn run(db: &Handle, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(db).await.map(drop)
}

/// Reads one number.
///
/// # Errors
/// Those of the statement.
pub async fn number(db: &Handle, sql: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(db).await
}

/// The process that serves the next statement.
pub async fn pid(db: &Handle) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(db).await.unwrap()
}

/// The node that ran the session's last statement.
#[must_use]
pub fn node_of(db: &Handle) -> String {
    db.served_by().map_or_else(|| "no node".to_owned(), |node| node.to_string())
}

/// The node that serves a read of a new session.
///
/// # Errors
/// Those of the read.
pub async fn reader(engine: &Engine) -> Result<String, sqlx::Error> {
    let db = engine.handle();
    run(&db, "SELECT 1").await?;
    Ok(node_of(&db))
}

/// Waits until each of these nodes has served a read of a new session.
pub async fn until_served_by(engine: &Engine, nodes: &[&str]) {
    for node in nodes {
        let serves = async || reader(engine).await.is_ok_and(|reader| reader == *node);
        let tell = || format!("{:#?}", engine.status());
        wait_until_or_tell(&format!("{node} serves"), serves, tell).await;
    }
}

/// A node's part of the status.
#[must_use]
pub fn status_of(engine: &Engine, node: &str) -> NodeStatus {
    engine.status().nodes.into_iter().find(|status| status.name == node).unwrap()
}

/// Tasks on the test's own runtime.
#[must_use]
pub fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}
