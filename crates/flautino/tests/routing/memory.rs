//! Distinct statements do not grow the process.
//!
//! Measured in a child process of its own, since other tests run side by side in this one: after
//! a warm-up of 5,000 texts, 40,000 further ones of the classifier (not sent to a server), and
//! then texts near the longest that it remembers. A million of them would take minutes in a debug
//! build; what grows with each text would show after a part of that: 100 bytes a text are 4 MB.

use flautino::{Access, Engine, EngineConfig};

use crate::common::{in_a_process_of_its_own, status_kb};

fn engine() -> Engine {
    Engine::new(EngineConfig::from_url("postgres://127.0.0.1:1/db").unwrap()).unwrap()
}

/// The growth by many short texts, and by long ones, in kB.
fn measure() -> (i64, i64) {
    let engine = engine();
    let ask = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let sql = format!("SELECT a, b FROM notes WHERE id = {number} AND title <> 'x'");
            assert_eq!(engine.access(&sql), Access::Read);
        }
    };
    ask(0..5_000);
    let before = status_kb("VmRSS:");
    ask(5_000..45_000);
    let short = status_kb("VmRSS:") - before;
    let before = status_kb("VmRSS:");
    for number in 0..300 {
        let sql = format!("SELECT '{}{number}'", "x".repeat(65_000));
        assert_eq!(engine.access(&sql), Access::Read);
    }
    (short, status_kb("VmRSS:") - before)
}

#[test]
#[cfg(target_os = "linux")]
fn forty_thousand_distinct_statements_and_the_longest_ones_leave_memory_as_it_was() {
    const NAME: &str =
        "memory::forty_thousand_distinct_statements_and_the_longest_ones_leave_memory_as_it_was";
    in_a_process_of_its_own(NAME, || {
        let (short, long) = measure();
        println!("grown by {short} kB and {long} kB");
        assert!(short < 3_000, "40,000 short texts take {short} kB");
        // All of them would be 20 MB.
        assert!(long < 12_000, "300 long texts take {long} kB");
    });
}
