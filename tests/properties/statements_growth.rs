//! How long it takes to classify long and deep texts: in proportion to their length.

use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig};

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

/// The shortest of several times, since the machine may be busy with other things.
fn shortest(runs: usize, mut work: impl FnMut(usize)) -> Duration {
    let time = |run| {
        let started = Instant::now();
        work(run);
        started.elapsed()
    };
    (0..runs).map(time).min().unwrap()
}

fn fresh() -> Engine {
    let config = EngineConfig::from_toml("host = \"127.0.0.1\"\n[extra_nodes.r]\nhost = \"b\"");
    Engine::new(config.unwrap()).unwrap()
}

#[test]
fn twice_the_text_takes_no_more_than_three_times_as_long() {
    // Below, what is constant counts for more.
    const NOTEWORTHY: Duration = Duration::from_millis(3);
    let engine = fresh();
    let mut steep = Vec::new();
    for (number, shape) in SHAPES.iter().enumerate() {
        let mut before = Duration::MAX;
        for power in 14..=20 {
            let length = 1 << power;
            let time = shortest(4, |run| {
                let _ = engine.access(&text(*shape, length, (number * 100 + power) * 10 + run));
            });
            // Over 64 kB nothing is parsed, and under it little is after 8,000 tokens.
            if before > NOTEWORTHY && before != Duration::MAX && time > before * 3 {
                steep.push(format!("{shape:?}: {before:?}, then {time:?} for {length} bytes"));
            }
            assert!(time < Duration::from_secs(5), "{shape:?} of {length} bytes took {time:?}");
            before = time;
        }
    }
    assert!(steep.is_empty(), "{}", steep.join("\n"));
}

#[test]
fn no_nesting_within_the_parser_s_depth_takes_long() {
    let openers = [
        ("(", ")"),
        ("(SELECT ", ")"),
        ("CASE WHEN ", " THEN 1 END"),
        ("ARRAY[", "]"),
        ("NOT ", ""),
        ("- ", ""),
        ("EXISTS (SELECT ", ")"),
        ("CAST(", " AS int)"),
        ("1 IN (", ")"),
        ("(VALUES (", "))"),
        ("1 BETWEEN ", " AND 2"),
        ("(1, ", ")"),
        ("row(", ")"),
        ("coalesce(", ")"),
        ("INTERVAL ", ""),
        ("a[", "]"),
        ("ALL (", ")"),
        ("(WITH a AS (SELECT 1) SELECT ", ")"),
        ("EXTRACT(year FROM ", ")"),
        ("POSITION(1 IN ", ")"),
        ("TRIM(", ")"),
        ("1 = ANY(", ")"),
        ("(SELECT 1 UNION SELECT ", ")"),
        ("{", "}"),
        ("a => ", ""),
        ("(a -> ", ")"),
        ("LATERAL (", ")"),
        ("count(*) FILTER (WHERE ", ")"),
    ];
    let tables = [
        ("(", ")"),
        ("(SELECT * FROM ", ") x"),
        ("(VALUES (1)) a, (", ")"),
        ("LATERAL (SELECT * FROM ", ") x"),
        ("(a JOIN ", " ON true)"),
        ("ONLY (", ")"),
        ("((", "))"),
    ];
    let mut slow = Vec::new();
    let mut try_it =
        |head: &str, one: (&str, &str), other: (&str, &str), middle: &str, depth: usize| {
            let heads = [one.0, other.0].concat().repeat(depth / 2);
            let tails = [other.1, one.1].concat().repeat(depth / 2);
            for sql in [format!("{head}{heads}{middle}{tails}"), format!("{head}{heads}{middle}")] {
                let started = Instant::now();
                let _ = engine().access(&sql);
                let time = started.elapsed();
                if time > Duration::from_secs(2) {
                    slow.push(format!("{time:?}: {sql}"));
                }
                if time > Duration::from_secs(20) {
                    return false;
                }
            }
            true
        };
    for depth in [6, 12, 18, 24, 48] {
        for one in openers {
            for other in openers {
                if !try_it("SELECT ", one, other, "1", depth) {
                    break;
                }
            }
        }
        for one in tables {
            for other in tables.iter().chain(&openers) {
                if !try_it("SELECT * FROM ", one, *other, "a", depth) {
                    break;
                }
            }
        }
    }
    assert!(
        slow.is_empty(),
        "{} are slow, such as\n{}",
        slow.len(),
        slow[..slow.len().min(8)].join("\n")
    );
}

#[test]
fn statements_many_times_over_are_no_trouble() {
    for (number, sql) in statements().into_iter().enumerate() {
        for (times, join) in [(2, " "), (50, ";"), (200, " UNION "), (1000, ",")] {
            let long = vec![&*sql; times].join(join);
            let started = Instant::now();
            let _ = engine().access(&long);
            let time = started.elapsed();
            assert!(time < Duration::from_secs(5), "statement {number}, {times} times: {time:?}");
        }
    }
}
