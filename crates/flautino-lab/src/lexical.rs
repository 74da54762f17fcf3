//! Texts of quotes, backslashes, comments and dollars in any order, and whether the server calls a
//! function in them.

use flautino::{Access, Engine};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

/// What an item begins and ends with, and what may stand in it.
const KINDS: [(&str, &str); 14] = [
    ("'", "'"),
    ("E'", "'"),
    ("e'", "'"),
    ("U&'", "'"),
    ("N'", "'"),
    ("B'", "'"),
    ("x'", "'"),
    ("$$", "$$"),
    ("$a$", "$a$"),
    ("1 AS \"", "\""),
    ("1 AS U&\"", "\""),
    ("1 AS U&\"", "\" UESCAPE '!'"),
    ("1 /*", "*/"),
    ("1 --", "\n"),
];
const PIECES: [&str; 30] = [
    "'",
    "''",
    "\"",
    "\"\"",
    "\\",
    "\\\\",
    "\\'",
    "$",
    "$$",
    "$a$",
    "/*",
    "*/",
    "--",
    "\n",
    " ",
    "\r",
    "\t",
    "'\n'",
    "' --\n'",
    "'\n--'\n'",
    ", ",
    "grab(1)",
    ", grab(1)",
    "1",
    "a",
    "!0067",
    "\\0067",
    "||",
    "+",
    "E'",
];
/// Expressions whose place alone says whether they call the function.
const EXPRESSIONS: [&str; 14] = [
    "1",
    "grab(1)",
    "U&\"gr\\0061b\"(1)",
    "U&\"gr!0061b\" UESCAPE '!' (1)",
    "U&\"gr\\0061b\" UESCAPE '!'",
    "\"grab\"(1)",
    "\"GRAB\"",
    "GRAB /* a */ (1)",
    "1+-grab(1)",
    "1-/**/-grab(1)",
    "1e1",
    ".5",
    "1.",
    "grab",
];

/// Makes the function `grab` of [`text`] tell that it was called.
pub const FUNCTION: &str = "CREATE OR REPLACE FUNCTION grab(int) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('app.grabbed', 'yes', false); RETURN $1; END $$";

/// A text that may call `grab`, and that does nothing else. `choose` returns a number below its
/// argument.
pub fn text(mut choose: impl FnMut(usize) -> usize) -> String {
    let mut text = String::from("SELECT ");
    for number in 0..1 + choose(4) {
        text.push_str(if number == 0 { "" } else { ", " });
        if choose(4) == 0 {
            text.push_str(EXPRESSIONS[choose(EXPRESSIONS.len())]);
            continue;
        }
        let (open, close) = KINDS[choose(KINDS.len())];
        text.push_str(open);
        for _ in 0..choose(4) {
            text.push_str(PIECES[choose(PIECES.len())]);
        }
        text.push_str(close);
    }
    text.push_str(" FROM (SELECT 2 AS grab) t");
    if choose(2) == 0 {
        text.push_str(" --'");
    }
    text
}

/// Whether the server calls the function when it runs this text; `None` if it refuses the text, or
/// finds more than one command in it.
pub async fn calls(connection: &mut PgConnection, sql: &str) -> Option<bool> {
    // Outside of a transaction a setting would be kept that is not local.
    connection.execute("SELECT set_config('app.grabbed', '', false)").await.unwrap();
    let run = sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(false);
    run.fetch_all(&mut *connection).await.ok()?;
    let row = connection.fetch_one("SELECT current_setting('app.grabbed')").await.unwrap();
    Some(row.get::<&str, _>(0) == "yes")
}

/// What is wrong with the engine's verdict on this text, which calls the function or does not. It does
/// not know how the session reads a backslash, so it may doubt what holds one.
#[must_use]
pub fn complain(engine: &Engine, sql: &str, is_called: bool) -> Option<String> {
    match engine.access(sql) {
        Access::Read if is_called => Some(format!("a read that calls: {sql:?}")),
        Access::Write if !is_called && !sql.contains('\\') => Some(format!("not a read: {sql:?}")),
        _ => None,
    }
}
