//! How long it takes to classify long and deep texts: in proportion to their length.

use std::time::Duration;

use flautino::{Engine, EngineConfig};
use nix::time::{ClockId, clock_gettime};

use crate::statements::{engine, statements};

/// A head, a part that is repeated, what stands in the middle, and a part that is repeated as often.
const SHAPES: &[(&str, &str, &str, &str)] = &[
    ("SELECT ", "(", "1", ")"),
    ("", "(", "SELECT 1", ")"),
    ("SELECT ", "", "1", "+1"),
    ("SELECT ", "", "1", ", 1"),
    ("SELECT ", "- ", "1", ""),
    ("SELECT ", "NOT ", "true", ""),
    ("SELECT ", "", "1", "::int"),
    ("SELECT ", "ARRAY[", "1", "]"),
    ("SELECT ", "(SELECT ", "1", ")"),
    ("SELECT ", "CASE WHEN true THEN ", "1", " END"),
    ("SELECT ", "", "1", " UNION SELECT 1"),
    ("SELECT * FROM ", "(", "a JOIN b ON true", ")"),
    ("SELECT * FROM ", "(SELECT * FROM ", "a", ") x"),
    ("SELECT * FROM a", "", "", " JOIN b ON true"),
    ("WITH ", "a AS (SELECT 1), ", "b AS (SELECT 1)", ""),
    ("", "WITH a AS (", "SELECT 1", ") SELECT 1"),
    ("", "EXPLAIN ", "SELECT 1", ""),
    ("", "/*", "SELECT 1", "*/"),
    ("SELECT 1", "", "", ";"),
    ("SELECT '", "''", "", "'"),
    ("SELECT \"", "\"\"", "a", "\""),
    ("SELECT $a$", "$", "", "$a$"),
    ("SELECT ", "$a$", "", ""),
    ("SELECT ", "$", "", ""),
    ("SELECT 1 ", "--\n", "", ""),
    ("SELECT ", "a.", "a", ""),
    ("SELECT ", "a(", "1", ")"),
    ("SELECT E'", "\\'", "", "'"),
    ("SELECT 1 WHERE a IN (1", "", "", ",1)"),
    ("SELECT 1 ", "||", "", ""),
    ("SELECT 1 /", "*", "", "/"),
    ("", " ", "SELECT 1", " "),
    ("SELECT ", "'a' ", "", ""),
    ("SELECT ", "1e", "", ""),
    ("SELECT '", "x", "", "'"),
    ("SELECT '' ", "''\n", "", ""),
    ("SELECT ''", " --\n", "", ""),
    ("SELECT E'", "\\\\", "", "'"),
    ("SELECT ", "U&\"a\" ", "", ""),
    ("SELECT ", "U&\"\\0061\" UESCAPE '!' ", "", ""),
    ("SELECT ", "$a$b", "", ""),
    ("SELECT 1", "+", "", ""),
    ("SELECT 1", "+-", "", "1"),
    ("SELECT 1", "+@", "", "1"),
    ("SELECT ", "x(", "", ""),
];

fn text(
    (head, open, middle, close): (&str, &str, &str, &str),
    length: usize,
    tag: usize,
) -> String {
    let each = (open.len() + close.len()).max(1);
    let times = length / each;
    // Not one that was met before.
    format!("{head}{}{middle}{} /* {tag} */", open.repeat(times), close.repeat(times))
}

/// Time of this thread on a processor, since the machine may be busy with other things.
fn timed(sql: &str) -> Duration {
    timed_with(engine(), sql)
}

fn timed_with(engine: &Engine, sql: &str) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let started = now();
    let _ = engine.access(sql);
    now() - started
}

fn fresh() -> Engine {
    let config = EngineConfig::from_toml("host = \"127.0.0.1\"\n[extra_nodes.r]\nhost = \"b\"");
    Engine::new(config.unwrap()).unwrap()
}

#[test]
fn eight_times_the_text_takes_no_more_than_twenty_seven_times_as_long() {
    const LENGTHS: [usize; 2] = [128 << 10, 1 << 20];
    // A square is 64 times as long, and a machine that is busy does not make that of 8.
    const MOST: u32 = 27;
    // What is constant, and what a cold cache costs.
    const SLACK: Duration = Duration::from_millis(8);
    let engine = fresh();
    let mut steep = Vec::new();
    for (number, shape) in SHAPES.iter().enumerate() {
        let [short, long] = LENGTHS.map(|length| {
            // The shortest of several.
            let runs = (0..4).map(|run| text(*shape, length, number * 10 + run));
            let time = runs.map(|sql| timed_with(&engine, &sql)).min().unwrap();
            assert!(time < Duration::from_secs(5), "{shape:?}, {length} bytes: {time:?}");
            time
        });
        if long > short * MOST + SLACK {
            steep.push(format!("{shape:?}: {short:?}, then {long:?} for {} bytes", LENGTHS[1]));
        }
    }
    assert!(steep.is_empty(), "{}", steep.join("\n"));
}

#[test]
fn statements_many_times_over_are_no_trouble() {
    let ways = [(2, " "), (50, ";"), (200, " UNION "), (1000, ",")];
    for (number, sql) in statements().into_iter().enumerate() {
        let (times, join) = ways[number % ways.len()];
        let long = vec![&*sql; times].join(join);
        let time = timed(&long);
        assert!(time < Duration::from_secs(5), "statement {number}, {times} times: {time:?}");
    }
}
