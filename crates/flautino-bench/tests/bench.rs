//! `bench` runs, and its figures are there. What they are is not a test's matter, but for counts, which
//! are the same on every machine.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// One short round.
const SHORT: [&str; 6] = ["--clients", "2", "--seconds", "1", "--rounds", "1"];
/// The figures of all workloads that go by numbers of clients.
const FIGURES: [&str; 8] = [
    "rps",
    "p50_us",
    "p99_us",
    "p999_us",
    "rss_kb",
    "cpu_us_per_request",
    "round_trips_per_request",
    "statements_per_request",
];

/// A run with these arguments, and the folder for its files.
fn bench_in(folder: &TempDir, arguments: &[&str]) -> Vec<Value> {
    let file = folder.path().join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = command.args(arguments).arg("--json").arg(&file).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors, "", "nothing failed, and there is no progress bar outside a terminal");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn bench(arguments: &[&str]) -> Vec<Value> {
    bench_in(&tempfile::tempdir().unwrap(), arguments)
}

/// A short run of one workload, all of whose figures are there, without a failure.
fn only(workload: &str, more: &[&str]) -> Vec<Value> {
    let figures = bench(&[&SHORT[..], &["--only", workload], more].concat());
    for of in &figures {
        assert_eq!(of["workload"], workload, "{of}");
        assert_eq!(of["failures"], 0.0, "{of}");
        for name in FIGURES {
            assert!(of[name].as_f64().unwrap() > 0.0, "{name}: {of}");
            assert!(of[format!("ratio_{name}")].as_f64().unwrap() > 0.0, "{name}: {of}");
        }
    }
    figures
}

/// The figure of each variant, rounded: the first statements of a new connection are prepared too.
fn rounded(figures: &[Value], name: &str) -> Vec<(String, f64)> {
    let of = |of: &Value| {
        (of["variant"].as_str().unwrap().to_owned(), of[name].as_f64().unwrap().round())
    };
    figures.iter().map(of).collect()
}

#[test]
fn every_variant_answers_and_has_all_figures() {
    let figures = only("one", &[]);
    assert_eq!(figures.len(), 6);
    for (variant, round_trips) in rounded(&figures, "round_trips_per_request") {
        let waits =
            if variant == "pgpool" || variant == "pgpool_no_ping" { 2.0..=3.0 } else { 1.0..=1.0 };
        assert!(waits.contains(&round_trips), "{variant}: {round_trips}");
    }
}

#[test]
fn three_reads_are_three_statements() {
    for (variant, statements) in rounded(&only("three", &[]), "statements_per_request") {
        assert_eq!(statements, 3.0, "{variant}");
    }
}

#[test]
fn a_list_is_one_statement() {
    for (variant, statements) in rounded(&only("list", &[]), "statements_per_request") {
        assert_eq!(statements, 1.0, "{variant}");
    }
}

#[test]
fn a_write_is_one_statement() {
    for (variant, statements) in rounded(&only("write", &[]), "statements_per_request") {
        assert_eq!(statements, 1.0, "{variant}");
    }
}

#[test]
fn a_transaction_is_its_statements_begin_and_commit() {
    let statements = rounded(&only("tx", &[]), "statements_per_request");
    assert_eq!(statements.len(), 7, "axum-sqlx-tx takes part");
    for (variant, statements) in statements {
        assert_eq!(statements, 5.0, "{variant}");
    }
}

#[test]
fn tokens_come_back_and_replicas_are_told_apart() {
    let figures = bench(&[&SHORT[..], &["--only", "token", "--variants", "flautino_two"]].concat());
    let [base, two] = figures.as_slice() else { panic!("{figures:?}") };
    assert_eq!((&base["failures"], &two["failures"]), (&0.0.into(), &0.0.into()), "{figures:?}");
    for pause in ["at_once", "after_10_ms", "after_50_ms"] {
        assert_eq!(base[format!("by_replicas_{pause}")], 0.0, "{base}");
        let share = two[format!("by_replicas_{pause}")].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{two}");
    }
    // Each write is followed by a question for its position, which is not the pool's statement.
    assert!(two["monitor_statements_per_request"].as_f64().unwrap() > 0.0, "{two}");
    assert_eq!(base["monitor_statements_per_request"], 0.0, "{base}");
}

#[test]
fn reads_and_writes_are_mixed() {
    for (variant, statements) in rounded(&only("mixed", &[]), "statements_per_request") {
        assert_eq!(statements, 1.0, "{variant}");
    }
}

#[test]
fn figures_are_written_as_tables_and_plots_too() {
    let folder = tempfile::tempdir().unwrap();
    let (table, plots) = (folder.path().join("table.md"), folder.path().join("plots"));
    let mut arguments = vec!["--only", "one", "--variants", "pgpool", "--clients", "1,2"];
    arguments.extend(["--seconds", "1", "--rounds", "1"]);
    arguments.extend(["--markdown", table.to_str().unwrap(), "--plots", plots.to_str().unwrap()]);
    assert_eq!(bench_in(&folder, &arguments).len(), 2);
    let table = std::fs::read_to_string(table).unwrap();
    assert!(table.starts_with("### one, 1 client\n"), "{table}");
    assert!(table.contains("\n| pgpool | "), "{table}");
    for plot in ["one-rps.svg", "one-p99_us.svg"] {
        let plot = std::fs::read_to_string(plots.join(plot)).unwrap();
        assert!(plot.contains("</svg>") && plot.contains("pgpool"), "{plot}");
    }
}

#[test]
fn a_burst_is_answered() {
    for of in bench(&["--only", "burst", "--rounds", "1"]) {
        assert!(of["last_answer_ms"].as_f64().unwrap() > 0.0, "{of}");
    }
}

#[test]
fn some_still_read_in_a_storm() {
    let figures = bench(&["--only", "storm", "--rounds", "1", "--seconds", "2"]);
    assert!(figures.iter().all(|of| of["peace_rps"].as_f64().unwrap() > 0.0), "{figures:?}");
}
