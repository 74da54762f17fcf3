//! Which statements may run on a replica: each line of `classification/statements.tsv`, asked and
//! run, and random statements that write in some corner.

use std::collections::HashSet;
use std::fmt::Write;

use flautino::{Access, Error, Handle};
use flautino_cluster::Node;
use flautino_lab::{Lab, has_extensions, is_since, node_of};
use sqlx::AssertSqlSafe;

use self::random::Statements;

mod lexical;
mod random;

const TABLE: &str = include_str!("classification/statements.tsv");
const SCHEMA: &str = include_str!("classification/schema.sql");
const MAIN: &str = "main";
const REPLICA: &str = "read_replica_1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Read,
    Write,
    /// Safe on a replica, and right on either node.
    Either,
}

/// A line of the table.
#[derive(Debug)]
struct Line {
    number: usize,
    expected: Expected,
    tag: &'static str,
    sql: String,
}

impl Line {
    fn parse(number: usize, line: &'static str) -> Self {
        let mut parts = line.splitn(3, '\t');
        let mut part = || parts.next().unwrap_or_else(|| panic!("line {number} lacks a part"));
        let expected = match part() {
            "read" => Expected::Read,
            "write" => Expected::Write,
            "read?" => Expected::Either,
            other => panic!("line {number} has the access {other:?}"),
        };
        Self { number, expected, tag: part(), sql: unescape(part()) }
    }

    fn allows(&self, access: Access) -> bool {
        match self.expected {
            Expected::Read => access == Access::Read,
            Expected::Write => access == Access::Write,
            Expected::Either => true,
        }
    }

    fn allows_node(&self, node: &str) -> bool {
        match self.expected {
            Expected::Read => node == REPLICA,
            Expected::Write => node == MAIN,
            Expected::Either => node == MAIN || node == REPLICA,
        }
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        out.push(match (char, if char == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('t')) => '\t',
            ('\\', Some('f')) => '\u{c}',
            ('\\', Some('\\')) => '\\',
            ('\\', other) => panic!("an escape that is none: {other:?} in {text}"),
            (char, _) => char,
        });
    }
    out
}

fn table() -> Vec<Line> {
    let lines = TABLE.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(index, line)| Line::parse(index + 1, line)).collect()
}

/// A cluster with the table's schema that logs every statement, and an engine that uses its
/// replica.
async fn start(name: &str) -> Lab {
    let lab =
        Lab::named(name).replicas(1).setting("log_statement", "all").sql(SCHEMA).start().await;
    lab.until_served_by(&[REPLICA]).await;
    lab
}

/// Lines that not every version or build of PostgreSQL understands, by a part of their text.
async fn lines_left_out(node: &Node) -> Vec<&'static str> {
    let mut left_out = Vec::new();
    if !has_extensions(node, &["uuid-ossp"]).await {
        left_out.push("uuid_generate_v4");
    }
    if !is_since(14, node, "SEARCH, CYCLE, jsonb subscripts, multiranges, BEGIN ATOMIC").await {
        let since =
            ["SEARCH DEPTH", "CYCLE id", "data['a']['b']", "int4multirange", "BEGIN ATOMIC"];
        left_out.extend(since);
    }
    if !is_since(15, node, "MERGE").await {
        left_out.push("MERGE INTO");
    }
    left_out
}

async fn run_raw(db: &Handle, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.map(drop)
}

/// Fails with all complaints together.
fn none(what: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{}: {what}:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn the_table_has_many_statements_of_both_kinds() {
    let table = table();
    let distinct: HashSet<&str> = table.iter().map(|line| line.sql.as_str()).collect();
    assert_eq!(distinct.len(), table.len(), "a statement stands twice");
    let count = |expected| table.iter().filter(|line| line.expected == expected).count();
    let (reads, writes) = (count(Expected::Read), count(Expected::Write));
    let either = count(Expected::Either);
    assert!(table.len() >= 260, "{}", table.len());
    assert!(reads >= 110 && writes >= 110, "{reads} reads, {writes} writes");
    assert!(either * 100 <= table.len() * 12, "{either} of {} may go anywhere", table.len());
    for line in &table {
        let tags = ["loud", "silent", "session", "error", "refused"];
        let finding = tags.contains(&line.tag);
        assert_eq!(finding, line.expected == Expected::Write, "the tag of {line:?}");
    }
}

#[tokio::test]
async fn every_line_is_classified_as_the_table_says() {
    let lab = start("classified").await;
    let mut wrong = Vec::new();
    let has_uuids = has_extensions(lab.primary(), &["uuid-ossp"]).await;
    // Once as new, once as known.
    for round in ["first", "second"] {
        for line in table() {
            if !has_uuids && line.sql.contains("uuid_generate_v4") {
                continue;
            }
            let access = lab.engine.access(&line.sql);
            if !line.allows(access) {
                let Line { number, sql, tag, .. } = line;
                wrong.push(format!("line {number} ({tag}), {round} time: {access:?} for {sql:?}"));
            }
        }
    }
    lab.engine.close().await;
    none("classified otherwise than the table says", &wrong);
}

#[tokio::test]
async fn every_line_runs_on_the_node_that_the_table_says() {
    let lab = start("routed").await;
    let left_out = lines_left_out(lab.primary()).await;
    let mut wrong = Vec::new();
    for line in table() {
        if left_out.iter().any(|part| line.sql.contains(part)) {
            continue;
        }
        let db = lab.engine.handle();
        let result = run_raw(&db, &line.sql).await;
        let node = node_of(&db);
        let right = match (line.tag, &result) {
            ("refused", Err(err)) => {
                let ours = Error::of(err);
                matches!(ours, Some(Error::TransactionControl { .. } | Error::NeedsLease { .. }))
                    && db.served_by().is_none()
            }
            ("error" | "mistakes", _) | (_, Ok(())) => line.allows_node(&node),
            (_, Err(_)) => false,
        };
        if !right || (line.tag == "refused" && result.is_ok()) {
            let Line { number, sql, tag, .. } = line;
            wrong.push(format!("line {number} ({tag}) ran on {node}: {sql:?}: {result:?}"));
        }
    }
    lab.engine.close().await;
    none("run otherwise than the table says", &wrong);
}

#[tokio::test]
async fn a_read_with_values_is_a_read_and_a_write_with_values_a_write() {
    let lab = start("values").await;
    let read = "SELECT count(*) FROM notes WHERE id = $1 AND title <> $2";
    let write = "SELECT count(*) FROM notes WHERE grab($1) = 1 AND title <> $2";
    for (sql, access, node) in [(read, Access::Read, REPLICA), (write, Access::Write, MAIN)] {
        assert_eq!(lab.engine.access(sql), access, "{sql}");
        let db = lab.engine.handle();
        sqlx::query(sql).bind(1).bind("x").execute(&db).await.unwrap();
        assert_eq!(node_of(&db), node, "{sql}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_text_of_any_length_is_read_to_its_end() {
    let lab = start("long").await;
    for length in [60 << 10, 1 << 20, 10 << 20] {
        let long = "x".repeat(length);
        for (sql, access) in [
            (format!("SELECT '{long}', calm(1)"), Access::Read),
            (format!("SELECT '{long}', grab(1)"), Access::Write),
            (format!("SELECT /* {long} */ 1 INTO made"), Access::Write),
        ] {
            assert_eq!(lab.engine.access(&sql), access, "{length} {}", &sql[length..]);
        }
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_deep_statement_is_answered_and_ends_nobody_s_stack() {
    const LONGEST: usize = 64_000;
    let lab = start("deep").await;
    // A repeated head, what stands in the middle, and a tail repeated as often.
    let shapes = [
        ("SELECT ", "(", "@", ")"),
        ("SELECT ", "", "@", "+1"),
        ("SELECT ", "1+", "@", ""),
        ("SELECT ", "- ", "@", ""),
        ("SELECT ", "not ", "@ = 1", ""),
        ("SELECT ", "", "@", "::int"),
        ("SELECT ", "ARRAY[", "@", "]"),
        ("SELECT ", "calm(", "@", ")"),
        ("SELECT ", "(SELECT ", "@", ")"),
        ("SELECT ", "case when true then ", "@", " end"),
        ("SELECT ", "", "@", " UNION SELECT 1"),
        ("SELECT ", "", "@", " AND true"),
        ("SELECT ", "", "@", ", 1"),
        ("", "EXPLAIN ", "SELECT @", ""),
        ("", "(", "SELECT @", ")"),
        ("", "WITH a AS (", "SELECT @", ") SELECT 1"),
        ("SELECT * FROM ", "(", "notes JOIN notes n ON @ = 1", ")"),
        ("", "/*", "SELECT @", "*/"),
        ("", "", "SELECT @", ";"),
    ];
    for (start, head, middle, tail) in shapes {
        for depth in [10, 40, 60, 200, 1_000, 5_000, usize::MAX] {
            let depth = depth.min((LONGEST - 100) / (head.len() + tail.len()));
            let sql = |leaf: &str| {
                let middle = middle.replace('@', leaf);
                format!("{start}{}{middle}{}", head.repeat(depth), tail.repeat(depth))
            };
            let harmless = lab.engine.access(&sql("1"));
            let is_a_query = !matches!(head, "EXPLAIN " | "/*");
            assert!(harmless == Access::Read || !is_a_query, "{start}{head}, {depth} deep");
            let access = lab.engine.access(&sql("grab(1)"));
            assert_eq!(access, Access::Write, "{start}{head}{middle}{tail}, {depth} deep");
        }
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_write_in_any_corner_of_a_random_statement_is_never_a_read() {
    const CLASSIFIED: usize = 4_000;
    const RUN: usize = 400;
    let Lab { cluster, engine, .. } = start("random").await;
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |it| it.parse().unwrap());
    let mut statements = Statements::of(seed);
    let mut wrong = Vec::new();
    let marker = format!("seed {seed} number ");
    for number in 0..CLASSIFIED {
        let (read, write) = statements.pair(number);
        // Its twin without the write shows that what makes it one is the write.
        if engine.access(&read) != Access::Read {
            wrong.push(format!("not a read: {read:?}"));
        }
        if engine.access(&write) != Access::Write {
            wrong.push(format!("not a write: {write:?}"));
        }
        if number < RUN {
            let db = engine.handle();
            let result = run_raw(&db, &format!("{write}\n/* {marker}{number}. */")).await;
            let node = node_of(&db);
            if result.is_err() || node != MAIN {
                wrong.push(format!("ran on {node}: {write:?}: {result:?}"));
            }
        }
    }
    engine.close().await;
    // The servers' own word: a statement that the replica refused was sent there, too.
    let (main, replica) = (cluster.primary().log(), cluster.replica(0).log());
    for number in 0..RUN {
        let mark = format!("{marker}{number}. */");
        if !main.contains(&mark) || replica.contains(&mark) {
            wrong.push(format!("statement {number} was not run on the primary alone"));
        }
    }
    let mut what = String::from("wrong with random statements");
    write!(what, " (again with SEED={seed})").unwrap();
    none(&what, &wrong);
}
