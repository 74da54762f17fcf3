//! `bench growth` runs, and its figures are there. What they are is not a test's matter.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

/// The axes, how many subjects each has, and its figures.
const AXES: [(&str, usize, &[&str]); 6] = [
    ("nodes", 1, &["cpu_us_per_read", "us_per_read", "connections"]),
    ("tasks", 3, &["cpu_us_per_read", "us_per_read", "connections"]),
    ("statements", 3, &["cpu_us_per_read", "us_per_read", "connections"]),
    ("waiting", 2, &["kb", "bytes_each"]),
    ("connections", 2, &["kb", "bytes_each"]),
    ("replicas", 2, &["kb", "bytes_each"]),
];
const COUNTS: [u32; 2] = [3, 30];

#[test]
fn every_axis_is_measured_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(["growth", "--rounds", "1", "--milliseconds", "100", "--counts", "3,30"]);
    command.arg("--json").arg(path("figures.json"));
    command.arg("--markdown").arg(path("table.md"));
    let output = command.arg("--plots").arg(folder.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors, "", "nothing failed, and there is no progress bar outside a terminal");

    let figures = std::fs::read_to_string(path("figures.json")).unwrap();
    let figures: Vec<Value> = serde_json::from_str(&figures).unwrap();
    let table = std::fs::read_to_string(path("table.md")).unwrap();
    for (axis, subjects, names) in AXES {
        let of_axis: Vec<_> = figures.iter().filter(|of| of["axis"] == axis).collect();
        assert_eq!(of_axis.len(), subjects * COUNTS.len(), "{axis}");
        for (of, count) in of_axis.iter().zip(COUNTS.iter().cycle()) {
            assert_eq!(of["count"], *count, "{of}");
            // What little memory three of them take may have been there before.
            for name in names.iter().filter(|_| *count > 3) {
                assert!(of[name].as_f64().unwrap() > 0.0, "{name}: {of}");
            }
        }
        assert!(table.contains(&format!("### {axis}\n")), "{table}");
        let plot = std::fs::read_to_string(path(&format!("growth-{axis}.svg"))).unwrap();
        assert!(plot.contains("</svg>"), "{plot}");
    }
}
