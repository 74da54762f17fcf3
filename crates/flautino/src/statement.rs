//! One statement, taken out of sqlx's `Execute` so that it can be looked at before it is sent.

use sqlx::postgres::{PgArguments, PgStatement};
use sqlx::{Arguments, Execute, Postgres, SqlStr};

use crate::error::Error;

/// A statement with all that sqlx needs to send it, and that can be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    sql: SqlStr,
    arguments: Option<PgArguments>,
    persistent: bool,
    prepared: Option<PgStatement>,
}

impl Statement {
    /// Fails where a value could not be encoded; nothing has been sent then.
    pub(crate) fn split<'q, E: Execute<'q, Postgres>>(mut query: E) -> Result<Self, sqlx::Error> {
        // `Map` answers `persistent` by whether it still has its arguments, so ask before.
        let persistent = query.persistent();
        let prepared = query.statement().cloned();
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        Ok(Self { sql: query.sql(), arguments, persistent, prepared })
    }

    /// A statement of the library's own, in the simple protocol: one round trip, however many
    /// commands it holds.
    pub(crate) fn own(sql: SqlStr) -> Self {
        Self { sql, arguments: None, persistent: false, prepared: None }
    }

    pub(crate) fn text(&self) -> &str {
        self.sql.as_str()
    }

    /// Whether it goes through the extended protocol, which takes one command only.
    fn is_extended(&self) -> bool {
        self.arguments.is_some()
    }

    /// Refuses `BEGIN`, `COMMIT` and their like, where they would not do what they say: the next
    /// statement of a handle may go to another connection, and a transaction counts its own.
    ///
    /// A text of several commands is left alone: it can bracket itself.
    pub(crate) fn refuse_transaction_control(&self) -> Result<(), Error> {
        let sql = self.text();
        let word = first_word(sql);
        let controls = ["begin", "start", "commit", "end", "abort", "rollback"];
        let is_control = controls.iter().any(|control| word.eq_ignore_ascii_case(control))
            || (word.eq_ignore_ascii_case("prepare") && second_word_is(sql, word, "transaction"));
        if !is_control || has_several_commands(sql) || rolls_back_to_savepoint(sql, word) {
            return Ok(());
        }
        Err(Error::TransactionControl { keyword: word.to_ascii_uppercase() })
    }

    /// Whether it may leave something behind in the session: a setting, a lock, a cursor.
    ///
    /// In doubt, yes: the connection is then washed before anyone else gets it.
    pub(crate) fn may_change_session(&self) -> bool {
        let sql = self.text();
        let word = first_word(sql);
        let leaves_nothing = LEAVE_NOTHING.iter().any(|known| word.eq_ignore_ascii_case(known))
            || (word.eq_ignore_ascii_case("create") && !creates_temporary(sql, word));
        !leaves_nothing
            || names_session_function(sql)
            || (!self.is_extended() && has_several_commands(sql))
    }

    /// How it must be sent through a pooler that may give each message another server.
    pub(crate) fn for_pooler(mut self) -> (Self, PoolerMode) {
        self.persistent = false;
        let Some(arguments) = &self.arguments else {
            return (self, PoolerMode::AsItIs);
        };
        let word = first_word(self.text());
        let in_transaction = IN_TRANSACTION.iter().any(|known| word.eq_ignore_ascii_case(known));
        if arguments.len() == 0 && !in_transaction {
            // A utility command; some of them refuse to run inside a transaction.
            self.arguments = None;
            return (self, PoolerMode::AsItIs);
        }
        (self, PoolerMode::InTransaction)
    }
}

/// See [`Statement::for_pooler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolerMode {
    AsItIs,
    InTransaction,
}

impl Execute<'_, Postgres> for Statement {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.prepared.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// Commands that work on tables or catalogues and leave the session as it was. `CREATE` is
/// looked at on its own, for temporary tables.
const LEAVE_NOTHING: [&str; 22] = [
    "select",
    "insert",
    "update",
    "delete",
    "with",
    "values",
    "table",
    "merge",
    "show",
    "explain",
    "alter",
    "drop",
    "truncate",
    "comment",
    "grant",
    "revoke",
    "analyze",
    "vacuum",
    "reindex",
    "refresh",
    "notify",
    "checkpoint",
];

/// Commands that a pooler's server runs inside a transaction as well as outside.
const IN_TRANSACTION: [&str; 9] =
    ["select", "insert", "update", "delete", "with", "values", "table", "merge", "explain"];

/// The first word, behind white space, comments and parentheses.
fn first_word(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '(' || c == ';');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = after_block_comment(comment);
        } else {
            break;
        }
    }
    word_at_start(rest)
}

/// What follows a block comment whose opening is already read; PostgreSQL's nest.
fn after_block_comment(mut rest: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        let Some(at) = rest.find(['*', '/']) else {
            return "";
        };
        rest = &rest[at..];
        if rest.starts_with("*/") {
            depth -= 1;
            rest = &rest[2..];
        } else if rest.starts_with("/*") {
            depth += 1;
            rest = &rest[2..];
        } else {
            rest = &rest[1..];
        }
    }
    rest
}

fn word_at_start(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// What follows `word`, which is a slice of `sql`.
fn behind<'a>(sql: &'a str, word: &str) -> &'a str {
    let start = word.as_ptr() as usize - sql.as_ptr() as usize + word.len();
    &sql[start..]
}

fn second_word_is(sql: &str, word: &str, expected: &str) -> bool {
    first_word(behind(sql, word)).eq_ignore_ascii_case(expected)
}

fn rolls_back_to_savepoint(sql: &str, word: &str) -> bool {
    word.eq_ignore_ascii_case("rollback")
        && behind(sql, word)
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|part| part.eq_ignore_ascii_case("to"))
}

/// `CREATE TEMP …`, also behind `OR REPLACE` and `LOCAL`.
fn creates_temporary(sql: &str, word: &str) -> bool {
    let is = |part: &str, words: &[&str]| words.iter().any(|word| part.eq_ignore_ascii_case(word));
    behind(sql, word)
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty())
        .find(|part| !is(part, &["or", "replace", "local", "global"]))
        .is_some_and(|part| is(part, &["temp", "temporary"]))
}

/// A semicolon with something behind it. One inside a literal counts too: in doubt, several.
fn has_several_commands(sql: &str) -> bool {
    sql.split_once(';')
        .is_some_and(|(_, rest)| rest.contains(|c: char| !c.is_whitespace() && c != ';'))
}

/// `set_config` and the advisory-lock functions, the two families through which a plain query
/// commonly changes its session. Temporary tables made by `SELECT INTO` count with them.
fn names_session_function(sql: &str) -> bool {
    let bytes = sql.as_bytes();
    let starts = |at: usize, word: &str| {
        bytes
            .get(at..at + word.len())
            .is_some_and(|slice| slice.eq_ignore_ascii_case(word.as_bytes()))
    };
    let underscores = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'_');
    let mut found = underscores.map(|(at, _)| at).filter(|at| {
        starts(at + 1, "advisory_")
            || (starts(at + 1, "config") && *at >= 3 && starts(at - 3, "set"))
    });
    found.next().is_some() || selects_into_temporary(sql)
}

fn selects_into_temporary(sql: &str) -> bool {
    let mut words = sql.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.any(|word| word.eq_ignore_ascii_case("into"))
        && words.next().is_some_and(|next| {
            ["temp", "temporary"].iter().any(|word| next.eq_ignore_ascii_case(word))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::SqlSafeStr;

    fn simple(sql: &'static str) -> Statement {
        Statement::own(sql.into_sql_str())
    }

    #[test]
    fn the_first_word_stands_behind_comments_and_parentheses() {
        for sql in [
            "select 1",
            "  -- note\n SELECT 1",
            "/* a /* nested */ b */ (select 1)",
            ";; select 1",
            "/**/select/**/1",
        ] {
            assert!(first_word(sql).eq_ignore_ascii_case("select"), "{sql}");
        }
        for sql in ["", "-- only", "/* open", "1", "é"] {
            assert!(!first_word(sql).eq_ignore_ascii_case("select"), "{sql}");
        }
    }

    #[test]
    fn transaction_control_is_refused_and_savepoints_are_not() {
        for sql in [
            "BEGIN",
            "start transaction",
            "/**/commit;",
            "End",
            "ROLLBACK",
            "abort",
            "prepare transaction 'x'",
        ] {
            assert!(simple(sql).refuse_transaction_control().is_err(), "{sql}");
        }
        for sql in [
            "rollback to savepoint a",
            "ROLLBACK WORK TO a",
            "savepoint a",
            "begin; select 1; commit",
            "prepare p as select 1",
            "select 'begin'",
        ] {
            assert!(simple(sql).refuse_transaction_control().is_ok(), "{sql}");
        }
    }

    #[test]
    fn what_may_stay_in_the_session_is_found() {
        for sql in [
            "set search_path = x",
            "SELECT set_config('a', 'b', false)",
            "listen x",
            "select pg_advisory_lock(1)",
            "select pg_try_advisory_lock_shared(1)",
            "load 'x'",
            "create temp table t ()",
            "create local temporary table t ()",
            "prepare p as select 1",
            "select 1; set role x",
            "declare c cursor with hold for select 1",
            "call p()",
            "do $$ $$",
            "select 1 as a into temp t",
            "lock table x",
        ] {
            assert!(simple(sql).may_change_session(), "{sql}");
        }
        for sql in [
            "select 1",
            "insert into t values (1)",
            "select 1;",
            "create table t ()",
            "create index on t (temp)",
            "select * from temp_set",
            "update t set config = 1",
            "with x as (select 1) select * from x",
            "insert into temporal values (1)",
            "drop table t",
            "explain select 1",
        ] {
            assert!(!simple(sql).may_change_session(), "{sql}");
        }
    }
}
