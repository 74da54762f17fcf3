//! The invariants of ARCHITECTURE.md that the source itself can break.

use std::fs;
use std::path::{Path, PathBuf};

fn core() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file of the core, by its path below `src`, with the code only: no comments, and
/// nothing of the unit tests at its end.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let (src, mut files) = (core().join("src"), Vec::new());
    walk(&src, &mut files);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (name, code.collect::<Vec<_>>().join("\n"))
    };
    let sources: Vec<_> = files.into_iter().map(read).collect();
    assert!(sources.len() > 15, "{sources:?}");
    sources
}

/// The files in which one of the texts stands.
fn holding(texts: &[&str]) -> Vec<String> {
    let holds = |code: &str| texts.iter().any(|text| code.contains(text));
    let mut files: Vec<_> =
        sources().into_iter().filter(|(_, code)| holds(code)).map(|(name, _)| name).collect();
    files.sort();
    files
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
            "lease.rs",
            "node/backend.rs",
            "node/extensions.rs",
            "node/setup.rs",
            "pool/recovery.rs",
            "router/monitor/catalogue.rs",
            "router/monitor/probe.rs",
            "transaction.rs"
        ]
    );
}

#[test]
fn only_configuration_reads_the_environment() {
    assert_eq!(holding(&["env::"]), ["config/find.rs"]);
}

#[test]
fn there_is_no_mutable_static() {
    assert_eq!(holding(&["static mut", "\nstatic ", "thread_local!", "task_local!"]), [""; 0]);
}

#[test]
fn the_router_decides_without_io() {
    let sources = sources().into_iter().filter(|(name, _)| {
        let is_tests = name.ends_with("/tests.rs");
        name.starts_with("router") && !name.starts_with("router/monitor") && !is_tests
    });
    let mut count = 0;
    for (name, code) in sources {
        count += 1;
        for word in ["tokio", "sqlx", "Instant::now", "SystemTime", ".await"] {
            // A request's own clock is read where it is made.
            let allowed = name == "router.rs" && word == "Instant::now";
            assert!(allowed || !code.contains(word), "{name}: {word}");
        }
    }
    assert!(count > 6);
}
