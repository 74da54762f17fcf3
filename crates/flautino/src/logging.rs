//! `log_queries` and `log_responses`: events around each statement, and rows as text. `log_slow`: a warning
//! of one that takes long.
//!
//! - here: the events
//! - `statements`: what statements cost, while somebody looks
//! - `value`: a value of a row as text

mod statements;
mod value;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{Column, Row};

use self::statements::StatementStats;
pub(crate) use self::statements::micros;
pub use self::statements::{StatementStatus, StatementWatch};
use crate::router::Reason;
use crate::sql::{Token, Tokens, without_values};
use crate::statement::Statement;

/// What is to be logged, as the configuration says or as it was switched since, and the numbering of
/// statements.
#[derive(Debug)]
pub(crate) struct Logger {
    queries: AtomicBool,
    responses: AtomicBool,
    /// How many microseconds a statement may take without a warning; 0 for any number.
    slow_us: AtomicU64,
    /// How often a request may send one statement without a warning; 0 for any number.
    repeated: AtomicU32,
    next: AtomicU64,
    pub(crate) statements: Arc<StatementStats>,
}

impl Logger {
    pub(crate) fn new(queries: bool, responses: bool, slow: Duration, repeated: u32) -> Self {
        Self {
            queries: AtomicBool::new(queries),
            responses: AtomicBool::new(responses),
            slow_us: AtomicU64::new(slow_micros(slow)),
            repeated: AtomicU32::new(repeated),
            next: AtomicU64::new(1),
            statements: Arc::default(),
        }
    }

    pub(crate) fn queries(&self) -> bool {
        self.queries.load(Relaxed)
    }

    pub(crate) fn set_queries(&self, on: bool) {
        self.queries.store(on, Relaxed);
    }

    pub(crate) fn responses(&self) -> bool {
        self.responses.load(Relaxed)
    }

    pub(crate) fn set_responses(&self, on: bool) {
        self.responses.store(on, Relaxed);
    }

    pub(crate) fn slow(&self) -> Duration {
        Duration::from_micros(self.slow_us.load(Relaxed))
    }

    pub(crate) fn set_slow(&self, slow: Duration) {
        self.slow_us.store(slow_micros(slow), Relaxed);
    }

    pub(crate) fn repeated(&self) -> u32 {
        self.repeated.load(Relaxed)
    }

    pub(crate) fn set_repeated(&self, repeated: u32) {
        self.repeated.store(repeated, Relaxed);
    }

    /// When the app's statement is sent, if anybody wants to know how long it takes.
    pub(crate) fn starts(&self) -> Option<Instant> {
        let is_timed = !self.slow().is_zero() || self.statements.is_watched();
        if is_timed { Some(Instant::now()) } else { None }
    }

    /// The result of the app's statement is read to its end, or it failed or was given up.
    pub(crate) fn ended(&self, node: &str, sql: &str, reason: Option<Reason>, elapsed: Duration) {
        if self.statements.is_watched() {
            self.statements.count(sql, elapsed);
        }
        let slow = self.slow();
        if !slow.is_zero() && elapsed >= slow {
            let (reason, sql) = (reason.map(Reason::as_str), without_values(sql));
            tracing::warn!(
                target: "flautino::slow", node, reason, ?elapsed, sql,
                "a statement took long (`log_slow`)"
            );
        }
    }

    /// Logs a statement that is about to be sent, and why it goes to that node. The entry logs how
    /// the statement ended; if it is dropped before, that is `cancelled`.
    pub(crate) fn sending<'a>(
        &self,
        node: &'a str,
        sql: &str,
        values: Values,
        reason: Option<Reason>,
    ) -> Entry<'a> {
        let (queries, responses) = (self.queries(), self.responses());
        if !queries && !responses {
            return Entry(None);
        }
        let id = self.next.fetch_add(1, Relaxed);
        if queries {
            let reason = reason.map(Reason::as_str);
            tracing::info!(target: "flautino::query", id, node, reason, sql = %without_passwords(sql), "sending");
        }
        Entry(Some(Box::new(Open {
            id,
            node,
            values,
            queries,
            responses,
            started: Instant::now(),
            rows: 0,
        })))
    }
}

/// Less than a microsecond is not none.
fn slow_micros(slow: Duration) -> u64 {
    micros(slow).max(u64::from(!slow.is_zero()))
}

/// Whether a statement carries bind values, which the server may quote in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    None,
    Bound,
}

impl Values {
    pub(crate) fn of(statement: &Statement) -> Self {
        if statement.has_values() { Self::Bound } else { Self::None }
    }
}

/// A statement under way; see [`Logger::sending`]. Boxed, because most statements are not logged.
pub(crate) struct Entry<'a>(Option<Box<Open<'a>>>);

struct Open<'a> {
    id: u64,
    node: &'a str,
    values: Values,
    queries: bool,
    responses: bool,
    started: Instant,
    rows: u64,
}

impl Entry<'_> {
    /// Whether anything of the statement is logged.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_some()
    }

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
            // For a query these are the rows that `row` has already counted.
            open.rows = open.rows.max(rows);
        }
    }

    /// The result was read to its end.
    pub(crate) fn finish<T>(mut self, result: &Result<T, sqlx::Error>) {
        let Some(open) = self.0.take() else { return };
        match result {
            Ok(_) => open.log_end("ok", None),
            Err(error) => open.log_end("error", Some(error)),
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.log_end("cancelled", None);
        }
    }
}

impl Open<'_> {
    fn log_end(&self, outcome: &str, error: Option<&sqlx::Error>) {
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
                tracing::info!(target: "flautino::query", id, node, rows, elapsed_us = elapsed, outcome, error = %error_text(error, self.values), "done");
            }
        }
    }
}

/// Classes of errors whose messages name parts of the schema, the session or the server, and never
/// a value: connection, transaction state, conflicts, syntax and names, resources.
const QUOTE_NO_VALUE: [&str; 8] = ["08", "25", "40", "42", "53", "55", "57", "58"];

/// The server's code and message. Its detail, which quotes values, is left out; so is the
/// message of a statement with bind values, unless its class is known to quote none.
fn error_text(error: &sqlx::Error, values: Values) -> String {
    let Some(db) = error.as_database_error() else { return error.to_string() };
    let code = db.code().unwrap_or_default();
    let quotes_no_value = values == Values::None
        || code.get(..2).is_some_and(|class| QUOTE_NO_VALUE.contains(&class));
    if quotes_no_value { format!("{code}: {}", db.message()) } else { code.into_owned() }
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
fn without_passwords(sql: &str) -> Cow<'_, str> {
    let mut text = String::new();
    let mut copied = 0;
    let mut secret = false;
    for (token, place) in Tokens::of(sql) {
        // SQL joins literals that follow each other, so all of them are parts of the password.
        secret = token.is("password") || (secret && token == Token::Literal);
        if secret && token == Token::Literal {
            text.push_str(&sql[copied..place.start]);
            text.push_str("'…'");
            copied = place.end;
            // Where it ends depends on a setting, so that the rest may be part of it.
            if sql[place].contains('\\') {
                return text.into();
            }
        }
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
            ("alter role a password E'x\\' y' ", "alter role a password '…'"),
            ("alter role a password $$x$$", "alter role a password '…'"),
            ("alter role a password 'a'\n'b' c", "alter role a password '…' c"),
            ("alter role a password 'a\\'b' c", "alter role a password '…'"),
            ("alter role a password /* b */ 'unclosed", "alter role a password /* b */ '…'"),
            ("select password from users", "select password from users"),
            ("select password, 'a' from users", "select password, 'a' from users"),
            ("alter role ä password null", "alter role ä password null"),
        ] {
            assert_eq!(without_passwords(sql), logged);
        }
    }
}
