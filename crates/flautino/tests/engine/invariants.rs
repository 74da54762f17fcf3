//! The invariants of ARCHITECTURE.md that the source itself can break.

use std::fs;
use std::path::{Path, PathBuf};

use flautino_lab::imports::{Imports, Sources, circles, imports, not_allowed, read, with};

/// The core's layers from the top down, and which others each may import. A module of a layer imports
/// none of a layer above.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "lib",
        &[
            "config",
            "engine",
            "error",
            "handle",
            "lease",
            "node",
            "router",
            "session",
            "transaction",
        ],
    ),
    (
        "engine",
        &[
            "handle", "dispatch", "monitor", "node", "logging", "metrics", "session", "sql",
            "config", "router", "sqlstate", "error", "backoff",
        ],
    ),
    (
        "handle",
        &[
            "transaction",
            "dispatch",
            "lease",
            "node",
            "metrics",
            "session",
            "sql",
            "router",
            "error",
        ],
    ),
    ("transaction", &["lease", "statement", "sql", "sqlstate", "error", "backoff"]),
    (
        "dispatch",
        &[
            "lease",
            "monitor",
            "node",
            "session",
            "statement",
            "sql",
            "config",
            "router",
            "sqlstate",
            "error",
            "backoff",
        ],
    ),
    (
        "lease",
        &[
            "monitor",
            "node",
            "metrics",
            "session",
            "logging",
            "statement",
            "sql",
            "router",
            "sqlstate",
            "error",
        ],
    ),
    ("monitor", &["node", "logging", "sql", "config", "router", "sqlstate", "error", "backoff"]),
    (
        "node",
        &[
            "metrics",
            "logging",
            "statement",
            "sql",
            "config",
            "router",
            "sqlstate",
            "error",
            "backoff",
        ],
    ),
    ("metrics", &["router", "error"]),
    ("session", &["router"]),
    ("logging", &["statement", "sql", "router"]),
    ("statement", &["sql", "sqlstate", "error"]),
    ("sql", &["router"]),
    ("config", &["router", "error"]),
    ("router", &[]),
    ("sqlstate", &["error"]),
    ("error", &[]),
    ("backoff", &[]),
];

fn core() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Sources {
    let sources = read(&core().join("src"));
    assert!(sources.len() > 50, "{:?}", sources.keys());
    sources
}

/// The core's imports, with a line more at the end of one file.
fn imports_with(file: &str, line: &str) -> Imports {
    imports(&with(sources(), file, line))
}

/// The code of each file: no comments, and nothing of the unit tests at its end.
fn code() -> impl Iterator<Item = (String, String)> {
    sources().into_iter().map(|(name, text)| {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (name, code.collect::<Vec<_>>().join("\n"))
    })
}

/// The files in which one of the texts stands.
fn holding(texts: &[&str]) -> Vec<String> {
    let holds = |code: &str| texts.iter().any(|text| code.contains(text));
    code().filter(|(_, code)| holds(code)).map(|(name, _)| name).collect()
}

#[test]
fn the_table_itself_has_no_arrow_upwards() {
    for (place, (module, may_import)) in LAYERS.iter().enumerate() {
        for imported in *may_import {
            let below = LAYERS[place + 1..].iter().any(|(below, _)| below == imported);
            assert!(below, "{module} may import {imported}, which is not below it");
        }
    }
}

#[test]
fn no_module_imports_one_of_a_layer_above() {
    assert_eq!(not_allowed(&imports_with("lib.rs", ""), LAYERS), [""; 0]);
}

#[test]
fn no_files_import_each_other() {
    assert_eq!(circles(&imports_with("lib.rs", "")), [""; 0]);
}

#[test]
fn an_arrow_upwards_that_is_added_is_seen() {
    let upwards = imports_with("node/server.rs", "use crate::monitor::Monitor;");
    assert_eq!(not_allowed(&upwards, LAYERS), ["node/server.rs imports monitor.rs"]);
    assert!(circles(&upwards).contains(&"monitor.rs".to_owned()));
}

#[test]
fn a_circle_that_is_added_inside_of_a_layer_is_seen() {
    let circle = imports_with("router/lag.rs", "use super::topology::Topology;");
    assert_eq!(not_allowed(&circle, LAYERS), [""; 0]);
    assert_eq!(circles(&circle), ["router/lag.rs", "router/topology.rs"]);
}

#[test]
fn the_core_knows_nothing_of_http() {
    let manifest = fs::read_to_string(core().join("Cargo.toml")).unwrap();
    for dependency in ["http", "hyper", "tower", "axum"] {
        let named = manifest.lines().any(|line| line.starts_with(dependency));
        assert!(!named, "{dependency}");
    }
}

#[test]
fn sql_of_the_library_s_own_stands_in_few_places() {
    let sql = [
        "\"SELECT ",
        "\"WITH ",
        "\"SET ",
        "\"CREATE ",
        "\"BEGIN",
        "\"COMMIT",
        "\"ROLLBACK",
        "\"SAVEPOINT",
    ];
    assert_eq!(
        holding(&sql),
        [
            "lease/pooler.rs",
            "monitor/catalogue/queries.rs",
            "monitor/probe.rs",
            "monitor/traces.rs",
            "node/backend.rs",
            "node/extensions.rs",
            "node/listener.rs",
            "node/migrating.rs",
            "node/pool/recovery.rs",
            "node/settings.rs",
            "node/setup.rs",
            "transaction/guard.rs",
            "transaction/options.rs",
            "transaction/savepoint.rs"
        ]
    );
}

#[test]
fn only_configuration_reads_the_environment() {
    assert_eq!(holding(&["env::"]), ["config/environment.rs", "config/libpq_environment.rs"]);
}

#[test]
fn there_is_no_mutable_static() {
    assert_eq!(holding(&["static mut", "\nstatic ", "thread_local!", "task_local!"]), [""; 0]);
}

/// The modules decide what has to be decided, and a program that simulates servers can call them.
#[test]
fn router_session_and_sql_need_no_runtime_and_the_router_no_clock() {
    let mut count = 0;
    for (name, code) in code() {
        let module = name.split(['/', '.']).next().unwrap_or_default();
        let words: &[&str] = match module {
            "router" => &["tokio", "sqlx", ".await", "Instant::now", "SystemTime"],
            "session" | "sql" => &["tokio", "sqlx", ".await"],
            _ => continue,
        };
        count += 1;
        for word in words {
            assert!(!code.contains(word), "{name}: {word}");
        }
    }
    assert!(count > 15, "{count}");
}

/// Where the source of every other crate of the workspace has a root of its own.
fn other_roots() -> Vec<PathBuf> {
    let crates = fs::read_dir(core().join("..")).unwrap().map(|entry| entry.unwrap().path());
    let examples = fs::read_dir(core().join("../../examples")).unwrap();
    let examples = examples.map(|entry| entry.unwrap().path());
    let roots = crates.chain(examples).flat_map(|folder| {
        let mut roots = vec![folder.join("src")];
        if let Ok(binaries) = fs::read_dir(folder.join("src/bin")) {
            roots.extend(binaries.map(|entry| entry.unwrap().path()));
        }
        roots
    });
    roots.filter(|root| Path::is_dir(root)).collect()
}

#[test]
fn no_files_of_any_crate_import_each_other() {
    let roots = other_roots();
    assert!(roots.len() > 6, "{roots:?}");
    for root in roots {
        assert_eq!(circles(&imports(&read(&root))), [""; 0], "{}", root.display());
    }
}
