//! What a text does to the session that it runs in, where that matters to others: it drops prepared
//! statements that sqlx counts on, or leaves something to other clients of the session.
//!
//! Only what the text itself shows is seen, and not what functions and triggers do.

use std::borrow::Cow;
use std::ops::Range;

use super::commands::CommandEnds;
use super::lexer::{Token, Tokens};
use super::names::Name;

/// What stands before the name of something that is made.
const KINDS: [&str; 9] =
    ["table", "view", "sequence", "function", "procedure", "type", "domain", "aggregate", "exists"];

const TEMPORARY: &str = concat!("CREATE", " TEMP");
const SETTING: &str =
    "use `SET LOCAL` in a transaction, or set it for all sessions with `ALTER ROLE … SET`";

/// What a statement would leave behind in its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// The command or the function.
    pub(crate) what: String,
    /// What to do instead, as in "use …".
    pub(crate) instead: &'static str,
}

/// Whether a command of the text drops prepared statements whose names begin with `prefix`.
pub(crate) fn drops_prepared(sql: &str, prefix: &str) -> bool {
    commands(sql).iter().any(|command| command.drops_prepared(prefix))
}

/// Whether a command of the text copies rows from or to the client, which takes messages of its own.
pub(crate) fn copies_rows(sql: &str) -> bool {
    commands(sql).iter().any(Command::copies_rows)
}

/// What the text would leave behind in its session, for whoever gets that next.
pub(crate) fn leftover(sql: &str) -> Option<Leftover> {
    commands(sql).iter().find_map(Command::leftover)
}

/// One command of a text.
struct Command<'a> {
    sql: &'a str,
    tokens: Vec<(Token<'a>, Range<usize>)>,
}

/// Takes the text apart at its semicolons, but for those in a body (`BEGIN ATOMIC … END`).
fn commands(sql: &str) -> Vec<Command<'_>> {
    let mut commands = Vec::new();
    let mut command = Command { sql, tokens: Vec::new() };
    let mut ends = CommandEnds::default();
    for (token, place) in Tokens::of(sql) {
        if ends.is_end(token) {
            commands.push(std::mem::replace(&mut command, Command { sql, tokens: Vec::new() }));
        } else {
            command.tokens.push((token, place));
        }
    }
    commands.push(command);
    commands
}

impl<'a> Command<'a> {
    /// Whether the token at this place is one of these key words.
    fn is(&self, at: usize, words: &[&str]) -> bool {
        self.tokens.get(at).is_some_and(|(token, _)| token.is_any(words))
    }

    /// The text of the token at this place; empty behind the last one.
    fn text(&self, at: usize) -> &'a str {
        let place = self.tokens.get(at).map_or(0..0, |(_, place)| place.clone());
        self.sql.get(place).unwrap_or_default()
    }

    /// The name at this place, as the server reads it. `None` if it is no name.
    fn name(&self, at: usize) -> Option<String> {
        Name::of(self.tokens.get(at)?.0)?.spelt().map(Cow::into_owned)
    }

    /// Whether these key words stand one after the other somewhere before `end`.
    fn has(&self, words: &[&str], end: usize) -> bool {
        (0..end).any(|at| (at..).zip(words).all(|(at, word)| self.is(at, &[word])))
    }

    fn drops_prepared(&self, prefix: &str) -> bool {
        if self.is(0, &["discard"]) {
            return self.is(1, &["all"]);
        }
        if self.is(0, &["deallocate"]) {
            let at = if self.is(1, &["prepare"]) && self.tokens.len() > 2 { 2 } else { 1 };
            let has_prefix = |name: String| name.starts_with(prefix);
            return self.is(at, &["all"]) || self.name(at).is_some_and(has_prefix);
        }
        // Its text is a constant. `DISCARD ALL` does not run in there.
        self.is(0, &["do"])
            && (1..self.tokens.len())
                .any(|at| self.text(at).to_ascii_lowercase().contains("deallocate"))
    }

    fn copies_rows(&self) -> bool {
        self.is(0, &["copy"])
            && (1..self.tokens.len())
                .any(|at| self.is(at, &["stdin", "stdout"]) && self.is(at - 1, &["from", "to"]))
    }

    fn leftover(&self) -> Option<Leftover> {
        self.leaving_command().or_else(|| {
            // What is created is not run yet, but for the query of a table.
            let runs = !self.is(0, &["create"])
                || (1..4).any(|at| self.is(at, &["table", "materialized"]));
            let functions = || (0..self.tokens.len()).find_map(|at| self.leaving_function(at));
            runs.then(functions).flatten()
        })
    }

    /// The command itself, if it leaves something behind.
    fn leaving_command(&self) -> Option<Leftover> {
        let first = self.name(0)?;
        let what = first.to_ascii_uppercase();
        let leaves = |what: String, instead| Some(Leftover { what, instead });
        match &*first {
            // `local.x` and `transaction.x` are names of settings.
            "set"
                if self.is(1, &["local", "transaction", "constraints"]) && self.text(2) != "." =>
            {
                None
            }
            "set" => leaves(what, SETTING),
            "reset" | "discard" | "deallocate" => leaves(
                what,
                "leave it out, since nothing is left there: settings are made with `SET LOCAL`, and \
                 statements are not kept prepared",
            ),
            "listen" | "unlisten" => {
                leaves(what, "use `engine.listen` of an engine whose node is the server itself")
            }
            "load" => leaves(what, "set `session_preload_libraries` for the role or the database"),
            "prepare" if !self.is(1, &["transaction"]) => {
                leaves(what, "send the statement itself, with its values bound")
            }
            "declare" if self.has(&["with", "hold"], self.position("for")) => leaves(
                "DECLARE … WITH HOLD".to_owned(),
                "use `DECLARE` without `WITH HOLD` in a transaction, or `fetch`",
            ),
            "create" if self.names_temporary(&["create", "replace", "local", "global"]) => {
                let is_dropped = self.has(&["on", "commit", "drop"], self.tokens.len());
                let instead = "use `CREATE TEMP TABLE … ON COMMIT DROP` in a transaction";
                if is_dropped { None } else { leaves(TEMPORARY.to_owned(), instead) }
            }
            _ if self.selects_into_temporary() => leaves(
                "INTO TEMP".to_owned(),
                "use `CREATE TEMP TABLE … ON COMMIT DROP AS` in a transaction",
            ),
            _ if self.is(0, &["update", "with", "explain"])
                && self.has(&["update"], self.tokens.len())
                && (0..self.tokens.len())
                    .any(|at| self.name(at).is_some_and(|name| name == "pg_settings")) =>
            {
                leaves("UPDATE pg_settings".to_owned(), SETTING)
            }
            // As `EXPLAIN ANALYZE CREATE TEMP TABLE … AS`.
            "explain" if self.names_temporary(&["create", "local", "global"]) => leaves(
                TEMPORARY.to_owned(),
                "use `CREATE TEMP TABLE … ON COMMIT DROP AS` in a transaction",
            ),
            _ => None,
        }
    }

    /// The place of the first such key word; behind the last token if there is none.
    fn position(&self, word: &str) -> usize {
        let found = self.tokens.iter().position(|(token, _)| token.is(word));
        found.unwrap_or(self.tokens.len())
    }

    /// Whether `TEMP` stands behind one of these key words, or something is made in `pg_temp`.
    fn names_temporary(&self, before: &[&str]) -> bool {
        // An index goes with its table.
        let is_index = self.position("index") < 4;
        (1..self.tokens.len()).any(|at| {
            (self.is(at, &["temp", "temporary"]) && self.is(at - 1, before))
                || (!is_index
                    && self.is(at - 1, &KINDS)
                    && self.name(at).is_some_and(|name| name.starts_with("pg_temp")))
        })
    }

    /// Whether a query makes a temporary table. `INSERT INTO temp` is about a table of that name.
    fn selects_into_temporary(&self) -> bool {
        (1..self.tokens.len()).filter(|at| self.is(*at, &["into"])).any(|at| {
            let next = if self.is(at + 1, &["local", "global"]) { at + 2 } else { at + 1 };
            let is_temporary = self.is(next, &["temp", "temporary"])
                || self.name(next).is_some_and(|name| name.starts_with("pg_temp"));
            is_temporary && !self.is(at - 1, &["insert", "merge"])
        })
    }

    /// The function whose call begins at this place, if it leaves something behind.
    fn leaving_function(&self, at: usize) -> Option<Leftover> {
        if self.text(at + 1) != "(" {
            return None;
        }
        let name = self.name(at)?;
        let instead = match &*name {
            "set_config" if self.sets_locally(at + 1) => return None,
            "set_config" => "give it `true` as its third argument, in a transaction",
            "setseed" => "draw the random numbers in the app",
            "set_limit" => "use `SET LOCAL pg_trgm.similarity_threshold` in a transaction",
            "dblink_connect" | "dblink_connect_u" => "give `dblink` the connection string itself",
            "pg_replication_origin_session_setup"
            | "pg_replication_origin_session_reset"
            | "isn_weak" => "use a connection to the server itself",
            lock if lock.starts_with("pg_advisory_") || lock.starts_with("pg_try_advisory_") => {
                if lock.contains("_xact_") {
                    return None;
                }
                "use `pg_advisory_xact_lock` or `pg_try_advisory_xact_lock` in a transaction"
            }
            _ => return None,
        };
        Some(Leftover { what: name, instead })
    }

    /// Whether the last argument is `true`. `open` is the place of the opening parenthesis.
    fn sets_locally(&self, open: usize) -> bool {
        let (mut depth, mut is_true, mut is_else) = (0_u32, false, false);
        for at in open..self.tokens.len() {
            match self.text(at) {
                "(" if depth == 0 => depth = 1,
                ")" if depth == 1 => return is_true && !is_else,
                "," if depth == 1 => (is_true, is_else) = (false, false),
                ":" | "=>" => {}
                "(" => depth += 1,
                ")" => depth -= 1,
                _ if self.is(at, &["true"]) => is_true = true,
                _ => is_else |= !self.is(at, &["is_local", "bool", "boolean"]),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_drop_prepared_statements_are_found() {
        for sql in [
            "discard all",
            "/* x */ DISCARD ALL;",
            "DEALLOCATE ALL",
            "deallocate prepare all",
            "select 1; deallocate all; select 2",
            "DEALLOCATE sqlx_s_12",
            "DEALLOCATE PREPARE \"sqlx_s_12\"",
            "do $$ begin execute 'DEALLOCATE ALL'; end $$",
            "do language plpgsql 'begin execute ''deallocate x''; end'",
        ] {
            assert!(drops_prepared(sql, "sqlx_s_"), "{sql}");
        }
        for sql in [
            "discard plans",
            "discard temp",
            "deallocate mine",
            "deallocate prepare",
            "select 'discard all'",
            "select 1 -- ; discard all",
            "do $$ begin perform 1; end $$",
            "",
        ] {
            assert!(!drops_prepared(sql, "sqlx_s_"), "{sql}");
        }
    }

    #[test]
    fn copies_from_and_to_the_client_are_found() {
        for sql in
            ["copy t from stdin", "COPY (select 1) TO STDOUT (format csv)", "a; copy t to stdout"]
        {
            assert!(copies_rows(sql), "{sql}");
        }
        for sql in
            ["copy t from '/tmp/stdin'", "copy stdin to program 'x'", "select copy from stdin"]
        {
            assert!(!copies_rows(sql), "{sql}");
        }
    }

    #[test]
    fn what_stays_in_a_session_is_named_with_what_to_use_instead() {
        for (sql, what) in [
            ("SET work_mem = '1MB'", "SET"),
            ("set session characteristics as transaction read only", "SET"),
            ("set \"local\" = 1", "SET"),
            ("set local.x = 1", "SET"),
            ("SET ROLE x", "SET"),
            ("SET TIME ZONE 'UTC'", "SET"),
            ("select 1; set search_path = a", "SET"),
            ("begin; set local a = 1; set b = 1; commit", "SET"),
            ("RESET ALL", "RESET"),
            ("discard temp", "DISCARD"),
            ("deallocate x", "DEALLOCATE"),
            ("LISTEN x", "LISTEN"),
            ("UNLISTEN *", "UNLISTEN"),
            ("LOAD 'auto_explain'", "LOAD"),
            ("prepare p as select 1", "PREPARE"),
            ("declare c cursor with hold for select 1", "DECLARE … WITH HOLD"),
            ("declare c binary scroll cursor with hold for select 1", "DECLARE … WITH HOLD"),
            ("create temp table t (a int)", "CREATE TEMP"),
            ("create local temporary table t (a int) on commit delete rows", "CREATE TEMP"),
            ("create temp view v as select 1", "CREATE TEMP"),
            ("create or replace temp view v as select 1", "CREATE TEMP"),
            ("create temporary sequence s", "CREATE TEMP"),
            ("create table pg_temp.t (a int)", "CREATE TEMP"),
            ("create table if not exists \"pg_temp\".t (a int)", "CREATE TEMP"),
            ("create function pg_temp.f() returns int language sql as ''", "CREATE TEMP"),
            ("explain analyze create temp table t as select 1", "CREATE TEMP"),
            ("select 1 as a into temp t", "INTO TEMP"),
            ("select 1 as a into local temporary t", "INTO TEMP"),
            ("select 1 as a into pg_temp.t", "INTO TEMP"),
            ("update pg_settings set setting = 1 where name = 'x'", "UPDATE pg_settings"),
            ("update only pg_catalog.pg_settings set setting = 1", "UPDATE pg_settings"),
            ("select pg_advisory_lock(1)", "pg_advisory_lock"),
            ("select pg_catalog.pg_try_advisory_lock_shared (1, 2)", "pg_try_advisory_lock_shared"),
            ("select \"pg_advisory_unlock_all\"()", "pg_advisory_unlock_all"),
            ("with l as (select PG_ADVISORY_LOCK(1)) select * from l", "pg_advisory_lock"),
            ("copy (select pg_advisory_lock(1)) to stdout", "pg_advisory_lock"),
            ("create table t as select pg_advisory_lock(1)", "pg_advisory_lock"),
            ("select set_config('a.b', 'c', false)", "set_config"),
            ("select set_config($1, $2, $3)", "set_config"),
            ("select set_config('a.b', 'c', not true)", "set_config"),
            ("select set_config('a.b', true::text, false)", "set_config"),
            ("select set_config('a', 'b', true), set_config('a', 'b', false)", "set_config"),
            ("select setseed(0.5)", "setseed"),
            ("select dblink_connect('x')", "dblink_connect"),
        ] {
            let found = leftover(sql).unwrap_or_else(|| panic!("{sql}"));
            assert_eq!(found.what, what, "{sql}");
            assert!(found.instead.len() > 10, "{sql}");
        }
    }

    #[test]
    fn what_ends_with_its_transaction_is_not() {
        for sql in [
            "select 1",
            "set local work_mem = '1MB'",
            "SET LOCAL ROLE x",
            "set transaction read only",
            "set constraints all deferred",
            "begin; set local a.b = 1; select 1; commit",
            "create temp table t (a int) on commit drop",
            "CREATE TEMPORARY TABLE t ON COMMIT DROP AS SELECT 1",
            "create table temp (a int)",
            "create table t (temp int)",
            "create index on t (temp)",
            "insert into temp values (1)",
            "insert into pg_temp.t values (1)",
            "with x as (select 1) insert into temp select * from x",
            "merge into temp using u on true when matched then delete",
            "select temp from t",
            "declare c cursor for select 1",
            "declare c cursor for with hold as (select 1) select * from hold",
            "declare c cursor without hold for select 1",
            "select pg_advisory_xact_lock(1)",
            "select pg_try_advisory_xact_lock_shared(1)",
            "select set_config('a.b', $1, true)",
            "select set_config('a.b', concat('a', 'b'), is_local => true)",
            "select set_config('a.b', 'c', true::boolean)",
            "select 'set_config(1, 2, false)'",
            "select set_config from t",
            "select * from pg_settings",
            "select 1 from pg_settings for update",
            "prepare transaction 'x'",
            "notify x",
            "copy t from stdin",
            "create unique index i on pg_temp.t (a)",
            "create table u as select * from pg_temp.t",
            "create function f() returns int language sql begin atomic set; select 1; end",
            "create view v as select pg_advisory_lock(1)",
            "",
            ";;",
        ] {
            assert_eq!(leftover(sql), None, "{sql}");
        }
    }
}
