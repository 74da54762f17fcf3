//! `log_queries` and `log_responses`: events around each statement, and rows as text.

mod value;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{Column, Row};

/// What the configuration asks to be logged, and the numbering of statements.
#[derive(Debug, Default)]
pub(crate) struct Logger {
    queries: bool,
    responses: bool,
    next: AtomicU64,
}

impl Logger {
    pub(crate) fn new(queries: bool, responses: bool) -> Self {
        Self { queries, responses, next: AtomicU64::new(1) }
    }

    /// Logs a statement that is about to be sent. The entry logs how it ended, also when it is
    /// dropped before that.
    pub(crate) fn sending<'a>(&self, node: &'a str, sql: &str) -> Entry<'a> {
        if !self.queries && !self.responses {
            return Entry(None);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if self.queries {
            tracing::info!(target: "flautino::query", id, node, sql = %without_passwords(sql), "sending");
        }
        Entry(Some(Open {
            id,
            node,
            queries: self.queries,
            responses: self.responses,
            started: Instant::now(),
            rows: 0,
        }))
    }
}

/// A statement under way; see [`Logger::sending`].
pub(crate) struct Entry<'a>(Option<Open<'a>>);

struct Open<'a> {
    id: u64,
    node: &'a str,
    queries: bool,
    responses: bool,
    started: Instant,
    rows: u64,
}

impl Entry<'_> {
    /// A row arrived.
    pub(crate) fn row(&mut self, row: &PgRow) {
        let Some(open) = &mut self.0 else { return };
        open.rows += 1;
        if open.responses {
            let (id, node) = (open.id, open.node);
            let text = RowText(row).to_string();
            tracing::info!(target: "flautino::response", id, node, row = %text, "row");
        }
    }

    /// A command ended that reports how many rows it changed.
    pub(crate) fn rows_affected(&mut self, rows: u64) {
        if let Some(open) = &mut self.0 {
            // A query reports the rows that were already counted.
            open.rows = open.rows.max(rows);
        }
    }

    /// The result was read to its end.
    pub(crate) fn finish<T>(mut self, result: &Result<T, sqlx::Error>) {
        let Some(open) = self.0.take() else { return };
        match result {
            Ok(_) => open.ended("ok", None),
            Err(error) => open.ended("error", Some(error)),
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.ended("cancelled", None);
        }
    }
}

impl Open<'_> {
    fn ended(&self, outcome: &str, error: Option<&sqlx::Error>) {
        if !self.queries {
            return;
        }
        let elapsed = micros(self.started.elapsed());
        let Self { id, node, rows, .. } = *self;
        match error {
            None => {
                tracing::info!(target: "flautino::query", id, node, rows, elapsed_us = elapsed, outcome, "done");
            }
            Some(error) => {
                tracing::info!(target: "flautino::query", id, node, rows, elapsed_us = elapsed, outcome, error = %error_text(error), "done");
            }
        }
    }
}

/// Microseconds, as far as 64 bits go.
pub(crate) fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// The server's message without its detail, which quotes values.
fn error_text(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(db) => match db.code() {
            Some(code) => format!("{code}: {}", db.message()),
            None => db.message().to_owned(),
        },
        None => error.to_string(),
    }
}

/// A row as `{name: value, …}`.
struct RowText<'a>(&'a PgRow);

impl std::fmt::Display for RowText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{")?;
        for column in self.0.columns() {
            let comma = if column.ordinal() == 0 { "" } else { ", " };
            write!(f, "{comma}{}: ", column.name())?;
            match self.0.try_get_raw(column.ordinal()) {
                Ok(raw) => value::write(f, &raw)?,
                Err(_) => f.write_str("?")?,
            }
        }
        f.write_str("}")
    }
}

/// The text with the literals behind `PASSWORD` masked, as in `CREATE ROLE … PASSWORD '…'`.
fn without_passwords(sql: &str) -> std::borrow::Cow<'_, str> {
    const WORD: &[u8] = b"password";
    let bytes = sql.as_bytes();
    let mut text = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| {
        rest.windows(WORD.len()).position(|window| window.eq_ignore_ascii_case(WORD))
    }) {
        at += found + WORD.len();
        let literal = sql[at..].trim_start();
        let start = sql.len() - literal.len();
        let Some(quote) = literal.find('\'').filter(|quote| *quote <= 2) else {
            continue;
        };
        let body = &literal[quote + 1..];
        let end = body.find('\'').map_or(sql.len(), |end| start + quote + 1 + end);
        text.push_str(&sql[copied..start + quote + 1]);
        text.push('…');
        (copied, at) = (end, end);
    }
    if copied == 0 {
        return sql.into();
    }
    text.push_str(&sql[copied..]);
    text.into()
}

#[cfg(test)]
mod tests {
    use super::without_passwords;

    #[test]
    fn the_literal_behind_password_is_masked() {
        for (sql, logged) in [
            ("CREATE ROLE a PASSWORD 'secret' LOGIN", "CREATE ROLE a PASSWORD '…' LOGIN"),
            ("alter role a password E'x' ", "alter role a password E'…' "),
            ("alter role a password\n 'unclosed", "alter role a password\n '…"),
            ("select password from users", "select password from users"),
            ("alter role ä password null", "alter role ä password null"),
        ] {
            assert_eq!(without_passwords(sql), logged);
        }
    }
}
