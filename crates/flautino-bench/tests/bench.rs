//! `bench` runs, and its figures are there. What they are is not a test's matter.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

/// A run with these arguments, and what it wrote.
fn bench(arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    let output = command.args(arguments).arg("--json").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn every_variant_answers_and_has_all_figures() {
    let figures = bench(&["--clients", "2", "--seconds", "1", "--rounds", "1"]);
    assert_eq!(figures.len(), 6);
    for of in figures {
        assert_eq!(of["failures"], 0.0, "{of}");
        for name in ["rps", "p50_us", "p99_us", "p999_us", "cpu_us_per_request", "rss_kb"] {
            assert!(of[name].as_f64().unwrap() > 0.0, "{name}: {of}");
            assert!(of[format!("ratio_{name}")].as_f64().unwrap() > 0.0, "{name}: {of}");
        }
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
