//! What a text shows about its commands: how many there are, and what they leave behind in the
//! session.
//!
//! In doubt a command leaves something behind: the worst that follows is a needless reset of its
//! connection. The text does not show what a user's own functions and triggers do.

use super::commands::CommandEnds;
use super::lexer::{Token, Tokens};
use super::names::Name;

/// What one pass over the tokens of a text finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StatementTraits {
    /// The text holds more than one command.
    pub(crate) multiple_commands: bool,
    /// The first word of a command that begins or ends a transaction, if there is one.
    pub(crate) control: Option<&'static str>,
    /// Something may stay in the session: a setting, a lock, a cursor, a temporary table.
    pub(crate) may_change_session: bool,
    /// A command creates, alters or drops something.
    pub(crate) changes_schema: bool,
    /// A command may have made something that the catalogue, as it was read, does not have, and that
    /// other sessions see. To drop something makes nothing.
    pub(crate) adds_to_schema: bool,
    /// A command runs a procedure, which may do anything.
    pub(crate) calls_procedure: bool,
    /// The first command reads or writes rows, and so may run inside a transaction.
    pub(crate) is_query: bool,
}

/// Commands that read or write rows.
const QUERIES: [&str; 9] =
    ["select", "insert", "update", "delete", "with", "values", "table", "merge", "explain"];

/// Other commands that leave nothing behind in the session after their transaction.
const LEAVE_NOTHING: [&str; 19] = [
    "alter",
    "analyze",
    "checkpoint",
    "comment",
    "create",
    "drop",
    "grant",
    "lock",
    "notify",
    "refresh",
    "reindex",
    "release",
    "revoke",
    "rollback",
    "savepoint",
    "show",
    "truncate",
    "vacuum",
    "import",
];

/// Commands that begin or end a transaction.
const CONTROL: [&str; 7] = ["begin", "start", "commit", "end", "abort", "rollback", "prepare"];

impl StatementTraits {
    pub(crate) fn of(sql: &str) -> Self {
        let mut traits = Self::default();
        let mut tokens = Tokens::of(sql);
        traits.read(&mut tokens);
        if let Some(mut tokens) = tokens.other_reading() {
            traits.read(&mut tokens);
        }
        traits
    }

    /// Adds what these tokens show.
    fn read(&mut self, tokens: &mut Tokens<'_>) {
        let mut commands = 0;
        let mut command = Command::default();
        let mut ends = CommandEnds::default();
        for (token, _) in tokens {
            if ends.is_end(token) {
                commands += command.add_to(self, commands);
                command = Command::default();
            } else {
                command.read(token);
            }
        }
        commands += command.add_to(self, commands);
        self.multiple_commands |= commands > 1;
        self.may_change_session |= self.multiple_commands && self.control.is_some();
    }
}

/// One command, as far as its tokens have been read.
#[derive(Default)]
struct Command<'a> {
    first: Option<Token<'a>>,
    second: Option<Token<'a>>,
    last: Option<Token<'a>>,
    /// Whether the word `TO` occurred: `ROLLBACK TO` does not end the transaction.
    has_to: bool,
    changes_session: bool,
}

impl<'a> Command<'a> {
    /// Takes in the command's next token.
    fn read(&mut self, token: Token<'a>) {
        if token.is_name() {
            if self.first.is_none() && matches!(token, Token::Word(_)) {
                self.first = Some(token);
            } else if self.first.is_some() && self.second.is_none() {
                // A quoted identifier can be a name, but never a key word.
                self.second = Some(token);
            }
            self.has_to |= token.is("to");
            let is_attribute = self.last == Some(Token::Symbol(b'.'));
            self.changes_session |= is_named(token, names_session_state)
                || (is_attribute && is_named(token, is_function_of_session))
                || self.makes_temporary(token);
        } else if token == Token::Symbol(b'(') {
            self.changes_session |=
                self.last.is_some_and(|last| is_named(last, is_function_of_session));
        }
        self.last = Some(token);
    }

    /// Whether this word creates something temporary: `CREATE TEMP …`, `INTO TEMP …`, `CREATE OR
    /// REPLACE LOCAL TEMPORARY …`. Also a command inside `EXPLAIN`, since `ANALYZE` would run it.
    fn makes_temporary(&self, token: Token<'_>) -> bool {
        let before = ["create", "replace", "local", "global", "into"];
        let explained = self.first.is_some_and(|first| first.is("explain"))
            && token.is_any(&["create", "execute", "declare"]);
        explained
            || (token.is_any(&["temp", "temporary"])
                && self.last.is_some_and(|last| last.is_any(&before)))
    }

    /// Adds this command's traits to those of the text. Returns how many commands that were: 0 if
    /// there were no tokens, else 1.
    fn add_to(&self, traits: &mut StatementTraits, commands_before: usize) -> usize {
        let Some(first) = self.first else { return 0 };
        let second = |words: &[&str]| self.second.is_some_and(|second| second.is_any(words));
        let is_query = first.is_any(&QUERIES);
        traits.is_query |= commands_before == 0 && is_query;
        let is_temporary = first.is("create") && second(&["temp", "temporary", "local"]);
        let adds = first.is_any(&["create", "alter", "import", "do"]) && !is_temporary
            || first.is("commit") && second(&["prepared"]);
        traits.adds_to_schema |= adds;
        traits.calls_procedure |= first.is("call");
        traits.changes_schema |= adds || first.is("drop");
        let local_set = first.is("set") && second(&["local", "transaction", "constraints"]);
        traits.may_change_session |= self.changes_session
            || !(is_query || local_set || first.is_any(&LEAVE_NOTHING) || first.is_any(&CONTROL))
            || (first.is("prepare") && !second(&["transaction"]));
        let control = CONTROL.into_iter().find(|word| first.is(word)).filter(|word| match *word {
            "rollback" => !self.has_to && !second(&["prepared"]),
            "commit" => !second(&["prepared"]),
            "prepare" => second(&["transaction"]),
            _ => true,
        });
        traits.control = traits.control.or(control);
        1
    }
}

/// Whether the token is a name with one of the properties below.
fn is_named(token: Token<'_>, property: fn(&str) -> bool) -> bool {
    // Most words begin with another letter, and need not be folded.
    let may_be = |text: &str| text.starts_with(['d', 'D', 'p', 'P', 's', 'S']);
    let is_other = matches!(token, Token::Word(text) if !may_be(text));
    !is_other && Name::of(token).is_some_and(|name| name.has(property))
}

/// Whether a plain query that names this relation or schema may change its session.
fn names_session_state(name: &str) -> bool {
    name == "pg_settings" || name.starts_with("pg_temp")
}

/// Whether a call of this function may change the session.
fn is_function_of_session(name: &str) -> bool {
    const NAMES: [&str; 3] = ["set_config", "setseed", "set_limit"];
    const PREFIXES: [&str; 3] = ["pg_advisory", "pg_try_advisory", "dblink_connect"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_add_to_the_schema_is_told_from_what_only_drops() {
        for sql in [
            "CREATE VIEW v AS SELECT 1",
            "create or replace function f() returns int language sql return 1",
            "CREATE UNLOGGED TABLE t ()",
            "alter function f() volatile",
            "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO public",
            "DO $$ BEGIN END $$",
            "COMMIT PREPARED 'a'",
            "select 1; /* x */ Create View v AS SELECT 1; select 2",
        ] {
            assert!(StatementTraits::of(sql).adds_to_schema, "{sql}");
        }
        for sql in [
            "DROP VIEW v",
            "CREATE TEMP TABLE t ()",
            "create temporary view v as select 1",
            "CREATE LOCAL TEMP TABLE t ()",
            "INSERT INTO creates VALUES ('create')",
            "SELECT 'create view'",
            "COMMIT",
            "CALL p()",
        ] {
            assert!(!StatementTraits::of(sql).adds_to_schema, "{sql}");
        }
        assert!(StatementTraits::of("DROP VIEW v").changes_schema);
        assert!(StatementTraits::of("select 1; call p()").calls_procedure);
    }

    #[test]
    fn transaction_control_is_found_and_savepoints_are_not() {
        for sql in [
            "BEGIN",
            "start transaction",
            "/**/commit;",
            "End",
            "ROLLBACK",
            "abort",
            "prepare transaction 'x'",
            "select 1; rollback",
            "rollback; select 1",
            "create function f() returns int begin atomic select 1; end; commit",
        ] {
            assert!(StatementTraits::of(sql).control.is_some(), "{sql}");
        }
        for sql in [
            "rollback to savepoint a",
            "ROLLBACK WORK TO a",
            "savepoint a",
            "prepare p as select 1",
            "select 'begin'",
            "select 1 -- ; commit",
            "select ';commit'",
            "commit prepared 'x'",
            "do $$ begin commit; end $$",
            "create function f() returns int begin atomic select case when true then 1 end; end",
            "insert into t select begin, \"end\" from u",
        ] {
            assert_eq!(StatementTraits::of(sql).control, None, "{sql}");
        }
    }

    #[test]
    fn commands_are_counted_outside_of_bodies_and_literals() {
        for sql in [
            "select 1",
            ";; select 1;;",
            "select ';'; -- ;",
            "do $$ a; b $$",
            "create procedure p() begin atomic select 1; select 2; end",
        ] {
            assert!(!StatementTraits::of(sql).multiple_commands, "{sql}");
        }
        for sql in [
            "select 1; select 2",
            "/* */ a; b",
            "select 'a;'; x",
            "select begin atomic; drop table t",
            r"select 'a\''; drop table t; --'",
        ] {
            assert!(StatementTraits::of(sql).multiple_commands, "{sql}");
        }
    }

    #[test]
    fn commands_that_may_leave_something_in_the_session_are_found() {
        for sql in [
            "set search_path = x",
            "SELECT set_config('a', 'b', false)",
            "select pg_catalog.\"set_config\"('a', 'b', false)",
            "select setseed(0.5)",
            "select x.setseed from random() as x",
            "select U&\"set!005fconfig\" uescape '!' ('a', 'b', false)",
            "select E'a'\n'\\'', set_config('a', 'b', false) --'",
            "set \"a.b\" = local",
            "set \"a.b\" to transaction",
            "update pg_settings set setting = 1",
            "listen x",
            "select pg_advisory_lock(1)",
            "select pg_try_advisory_lock_shared(1)",
            "load 'x'",
            "create temp table t ()",
            "create local temporary table t ()",
            "create or replace temp view v as select 1",
            "create table pg_temp.t ()",
            "explain analyze create temp table t as select 1",
            "prepare p as select 1",
            "select 1; set role x",
            "begin; select 1",
            "declare c cursor with hold for select 1",
            "call p()",
            "do $$ $$",
            "select 1 as a into temp t",
            "copy t from stdin",
        ] {
            assert!(StatementTraits::of(sql).may_change_session, "{sql}");
        }
        for sql in [
            "select 1",
            "insert into t values (1)",
            "select 1; select 2",
            "create table t ()",
            "create index on t (temp)",
            "select 'set_config', set_config, temp from temp_set",
            "insert into temporal values (1)",
            "set local work_mem = '1MB'",
            "savepoint a",
            "rollback to a",
            "lock table t",
            "with x as (select 1) select * from x",
            "",
        ] {
            assert!(!StatementTraits::of(sql).may_change_session, "{sql}");
        }
    }
}
