//! What the server itself says, asked over a connection that has nothing to do with the engine.

use flautino_cluster::Node;
use sqlx::AssertSqlSafe;

use crate::wait::wait_until;

/// One value from the node, over a connection of its own.
pub async fn ask<T>(node: &Node, sql: &str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let mut connection = node.connect().await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.unwrap()
}

/// Whether the server has a session with this process id.
pub async fn has_session(node: &Node, pid: i32) -> bool {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    ask::<i64>(node, &sql).await > 0
}

/// How many sessions of that `application_name` the server has; asked over a connection of its
/// own.
pub async fn sessions_of(node: &Node, name: &str) -> i64 {
    let mut connection = node.connect().await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1")
        .bind(name)
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

/// Waits until the server has that many sessions of that `application_name`: a session ends a
/// moment after its connection.
pub async fn until_sessions(node: &Node, name: &str, count: i64) {
    let what = format!("there are {count} sessions of `{name}`");
    wait_until(&what, async || sessions_of(node, name).await == count).await;
}

/// Ends the sessions for which this holds, a condition on `pg_stat_activity`, and waits until they are
/// gone. Returns how many there were.
pub async fn end_sessions(node: &Node, which: &str) -> usize {
    // `pg_terminate_backend` waits by itself only since PostgreSQL 14.
    let end = format!(
        "SELECT coalesce(array_agg(pid) FILTER (WHERE pg_terminate_backend(pid)), '{{}}') \
         FROM pg_stat_activity WHERE {which}"
    );
    let pids: Vec<i32> = ask(node, &end).await;
    for pid in &pids {
        wait_until("the session has ended", async || !has_session(node, *pid).await).await;
    }
    pids.len()
}

/// How many sessions of that `application_name` run this very text now.
pub async fn running(node: &Node, name: &str, sql: &str) -> i64 {
    let mut connection = node.connect().await.unwrap();
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE application_name = $1 AND query = $2 AND state = 'active'",
    )
    .bind(name)
    .bind(sql)
    .fetch_one(&mut connection)
    .await
    .unwrap()
}

/// Waits until a session of that `application_name` runs this very text.
pub async fn until_running(node: &Node, name: &str, sql: &str) {
    let what = format!("`{sql}` runs");
    wait_until(&what, async || running(node, name, sql).await > 0).await;
}

/// The SQLSTATE, empty where the error is none of the server's.
#[must_use]
pub fn sqlstate(err: &sqlx::Error) -> String {
    let code = err.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.unwrap_or_default().into_owned()
}

/// How many sessions of that `application_name` have begun since the server's first start, by its
/// own log; it must have been started with `log_connections`. Requests to cancel are no sessions.
#[must_use]
pub fn sessions_begun(node: &Node, name: &str) -> usize {
    let name = format!("application_name={name}");
    let begins = |line: &&str| {
        line.contains("connection authorized: ") && line.split(' ').any(|word| word == name)
    };
    node.log().lines().filter(begins).count()
}
