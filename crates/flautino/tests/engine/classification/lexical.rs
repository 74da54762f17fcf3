//! Texts of quotes, backslashes, comments and dollars in any order, read by the server and by the
//! classifier: both must find the same calls of a function in them.

use flautino::{Access, Engine};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::{none, start};

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

struct Texts(fastrand::Rng);

impl Texts {
    fn next(&mut self) -> String {
        let mut text = String::from("SELECT ");
        for number in 0..self.0.usize(1..5) {
            text.push_str(if number == 0 { "" } else { ", " });
            if self.0.u8(..4) == 0 {
                text.push_str(EXPRESSIONS[self.0.usize(..EXPRESSIONS.len())]);
                continue;
            }
            let (open, close) = KINDS[self.0.usize(..KINDS.len())];
            text.push_str(open);
            for _ in 0..self.0.usize(..4) {
                text.push_str(PIECES[self.0.usize(..PIECES.len())]);
            }
            text.push_str(close);
        }
        text.push_str(" FROM (SELECT 2 AS grab) t");
        if self.0.bool() {
            text.push_str(" --'");
        }
        text
    }
}

/// Whether the server calls the function when it runs this text; `None` if it refuses the text, or
/// finds more than one command in it.
async fn calls(connection: &mut PgConnection, sql: &str) -> Option<bool> {
    // Outside of a transaction a setting would be kept that is not local.
    connection.execute("SELECT set_config('app.grabbed', '', false)").await.unwrap();
    let run = sqlx::query(AssertSqlSafe(sql.to_owned())).persistent(false);
    run.fetch_all(&mut *connection).await.ok()?;
    let row = connection.fetch_one("SELECT current_setting('app.grabbed')").await.unwrap();
    Some(row.get::<&str, _>(0) == "yes")
}

/// What is wrong with the verdict on this text, which calls the function or does not.
fn complain(engine: &Engine, sql: &str, is_called: bool, may_doubt: bool) -> Option<String> {
    match engine.access(sql) {
        Access::Read if is_called => Some(format!("a read that calls: {sql:?}")),
        Access::Write if !is_called && !may_doubt => Some(format!("not a read: {sql:?}")),
        _ => None,
    }
}

#[tokio::test]
async fn a_text_of_quotes_and_comments_calls_what_the_server_calls() {
    const TEXTS: usize = 6_000;
    let lab = start("lexical").await;
    let mut primary = lab.cluster.primary().connect().await.unwrap();
    // In this database alone the function tells that it was called.
    let function = "CREATE OR REPLACE FUNCTION grab(int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('app.grabbed', 'yes', false); RETURN $1; END $$";
    primary.execute(function).await.unwrap();
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |it| it.parse().unwrap());
    let mut texts = Texts(fastrand::Rng::with_seed(seed));
    let (mut called, mut plain, mut wrong) = (0, 0, Vec::new());
    for setting in ["on", "off"] {
        let set = format!("SET standard_conforming_strings = {setting}");
        primary.execute(AssertSqlSafe(set)).await.unwrap();
        for _ in 0..TEXTS {
            let sql = texts.next();
            let Some(is_called) = calls(&mut primary, &sql).await else { continue };
            *(if is_called { &mut called } else { &mut plain }) += 1;
            // The classifier does not know the setting, so it doubts what depends on it.
            wrong.extend(complain(&lab.engine, &sql, is_called, sql.contains('\\')));
        }
    }
    primary.close().await.unwrap();
    lab.engine.close().await;
    none(&format!("read otherwise than by the server (again with SEED={seed})"), &wrong);
    assert!(called > 500 && plain > 500, "{called} called, {plain} plain: too few to tell");
}
