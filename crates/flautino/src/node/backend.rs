//! A server's process behind a connection: how it is told apart, and made to stop.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::sender::Sender;

/// A server process, told apart from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    /// Microseconds since 1970.
    pub(crate) started: i64,
}

/// What is to be done to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// What it runs is cancelled; where it runs nothing, the server ignores that.
    Statement,
    /// It ends, and its session with it.
    Process,
}

impl Sender {
    /// Stops processes, over another connection of the same role, in one statement. One that is not
    /// the one that was meant any more is left alone.
    pub(crate) async fn stop_backends(
        &self,
        connection: &mut PgConnection,
        orders: impl IntoIterator<Item = (Backend, Stop)>,
    ) -> Result<(), sqlx::Error> {
        // One row for a process, with the most that is wanted of it.
        let mut wanted: BTreeMap<Backend, Stop> = BTreeMap::new();
        for (backend, stop) in orders {
            wanted.entry(backend).and_modify(|most| *most = stop.max(*most)).or_insert(stop);
        }
        let row = |(Backend { pid, started }, stop)| {
            format!("({pid}, {started}::int8, {})", stop == Stop::Process)
        };
        let rows: Vec<_> = wanted.into_iter().map(row).collect();
        let sql = format!(
            "SELECT CASE WHEN ends THEN pg_terminate_backend(target.pid) \
             ELSE pg_cancel_backend(target.pid) END \
             FROM (VALUES {}) AS target (pid, started, ends) \
             JOIN LATERAL pg_stat_get_activity(target.pid) AS activity \
             ON (extract(epoch FROM activity.backend_start) * 1000000)::int8 = target.started",
            rows.join(", ")
        );
        self.send(connection, sql).await.map(drop)
    }
}
