//! The layers of the crate: no module imports one beside it or above it, and no two files import each
//! other, not even over a third one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use flautino_lab::imports::{circles, imports, not_allowed, read, with};

/// Which module may import which others, apart from its own files. Those that are not listed: none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("lib", &["extract", "response", "migrate", "db", "transaction", "level", "stream", "error"]),
    ("extract", &["db", "transaction", "level", "options", "statement"]),
    ("response", &["error"]),
    ("migrate", &["error"]),
    ("db", &["transaction", "options", "statement", "stream", "error"]),
    ("transaction", &["level", "options", "statement", "stream"]),
    ("stream", &["level", "statement", "error"]),
    ("level", &["error"]),
    ("statement", &["error"]),
];

#[test]
fn no_file_imports_one_of_a_layer_above_and_there_is_no_circle() {
    let sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.len() > 10, "{:?}", sources.keys());
    let all = imports(&sources);
    assert_eq!(not_allowed(&all, ALLOWED), [""; 0]);
    assert_eq!(circles(&all), [""; 0]);
    let upwards = imports(&with(sources, "level.rs", "use crate::transaction::Transaction;"));
    assert_eq!(not_allowed(&upwards, ALLOWED), ["level.rs imports transaction.rs"]);
}
