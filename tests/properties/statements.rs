//! SQL of any form: a read or a write, and never a panic.

use std::sync::OnceLock;

use flautino::{Access, Engine, EngineConfig};
use proptest::prelude::*;

use crate::common::{cases, mutated};

const TABLE: &str =
    include_str!("../../crates/flautino/tests/engine/classification/statements.tsv");

const PIECES: &[&str] = &[
    "(",
    ")",
    "((((",
    "))))",
    "'",
    "\"",
    "$$",
    "$a$",
    "E'",
    "U&\"",
    "--",
    "/*",
    "*/",
    ";",
    ",",
    ".",
    "::",
    "\\",
    "$1",
    "::int",
    " SELECT ",
    " FROM ",
    " UNION ",
    " WITH a AS (",
    " CASE WHEN ",
    " END",
    " NOT ",
    " IN (",
    " BETWEEN ",
    " AND ",
    " OVER (",
    " FOR UPDATE",
    " INTO x ",
    "ARRAY[",
    "]",
    "{",
    "}",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "1e",
    "0x",
    "||",
    "->>",
    "@>",
    "!~~*",
    "é",
    "𝒳",
];

/// The statements of the table.
pub(crate) fn statements() -> Vec<String> {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let sql = lines.filter_map(|line| line.splitn(3, '\t').nth(2));
    sql.map(|sql| sql.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")).collect()
}

/// An engine, not open: it knows no function, and so calls of any are writes.
pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let config = EngineConfig::from_toml("host = \"127.0.0.1\"\n[extra_nodes.r]\nhost = \"b\"");
        Engine::new(config.unwrap()).unwrap()
    })
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn any_text_is_a_read_or_a_write(text in any::<String>()) {
        let first = engine().access(&text);
        prop_assert_eq!(engine().access(&text), first, "remembered otherwise");
    }

    #[test]
    fn a_statement_to_which_something_happened_is_one_too(
        text in mutated(statements(), PIECES, 6),
    ) {
        let first = engine().access(&text);
        prop_assert_eq!(engine().access(&text), first, "remembered otherwise");
    }

    #[test]
    fn with_a_writing_statement_behind_it_none_is_a_read(
        text in proptest::sample::select(statements()),
        write in proptest::sample::select(&[
            "DELETE FROM notes", "DROP TABLE notes", "INSERT INTO notes DEFAULT VALUES",
            "SET search_path = a", "SELECT pg_advisory_lock(1)",
        ][..]),
    ) {
        // In a line of its own, since comments end there.
        let both = format!("{text}\n;\n{write}");
        prop_assert_eq!(engine().access(&both), Access::Write, "{}", both);
    }

    #[test]
    fn case_and_white_space_make_no_difference(
        text in proptest::sample::select(statements()), blank in "[ \n\t]{0,5}",
    ) {
        // A comment or a quoted name may hold anything, so only what stands around is changed.
        let around = format!("{blank}{text}\n{blank}");
        prop_assert_eq!(engine().access(&around), engine().access(&text), "{}", text);
    }
}
