//! The server process behind a connection: how it is told apart from others, how it is signalled, and how
//! the rest of what it sends is read.

use std::collections::BTreeMap;

use sqlx::{Connection, PgConnection};

use super::sender::Sender;
use crate::sqlstate::server_keeps_session;

/// A server process. The start time tells it apart from a later process with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    /// Microseconds since 1970.
    pub(crate) started: i64,
}

/// A signal to a backend. The order of the variants is their strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// `pg_cancel_backend`: cancels the statement that runs; ignored by an idle backend.
    Cancel,
    /// `pg_terminate_backend`: ends the process, and its session with it.
    Terminate,
}

impl Sender {
    /// Signals backends in one statement, over another connection of the same role. A backend that
    /// has ended is skipped, even where another process has its number by now.
    pub(crate) async fn signal_backends(
        &self,
        connection: &mut PgConnection,
        signals: impl IntoIterator<Item = (Backend, Signal)>,
    ) -> Result<(), sqlx::Error> {
        // One row for each backend, with the strongest signal that was requested.
        let mut strongest: BTreeMap<Backend, Signal> = BTreeMap::new();
        for (backend, signal) in signals {
            strongest
                .entry(backend)
                .and_modify(|known| *known = signal.max(*known))
                .or_insert(signal);
        }
        let row = |(Backend { pid, started }, signal)| {
            format!("({pid}, {started}::int8, {})", signal == Signal::Terminate)
        };
        let rows: Vec<_> = strongest.into_iter().map(row).collect();
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

/// Reads the rest of what the server sends, and ignores errors of the statement.
pub(crate) async fn drain(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    loop {
        match connection.ping().await {
            Err(err) if server_keeps_session(&err) => {}
            result => return result,
        }
    }
}
