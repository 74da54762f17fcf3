//! The classifier remembers a bounded number of statements: a million distinct ones, and the
//! process does not grow. Linux only, where `/proc` tells the resident memory.

use std::error::Error;
use std::time::Instant;

use flautino::{Engine, EngineConfig};

const WARM_UP: u32 = 20_000;
const STATEMENTS: u32 = 1_000_000;

/// Resident memory in kB.
fn resident() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").trim().parse()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::new(EngineConfig::from_url("postgres://localhost/none")?)?;
    let classify = |range: std::ops::Range<u32>| {
        for number in range {
            let sql =
                format!("SELECT id, title FROM notes WHERE owner = {number} ORDER BY id LIMIT 10");
            let _ = engine.access(&sql);
        }
    };
    classify(0..WARM_UP);
    let (before, started) = (resident()?, Instant::now());
    classify(WARM_UP..WARM_UP + STATEMENTS);
    let after = resident()?;
    println!(
        "{STATEMENTS} distinct statements: {before} kB before, {after} kB after, in {:?}",
        started.elapsed()
    );
    if after > before + 4 * 1024 {
        return Err("the process grew by more than 4 MB".into());
    }
    Ok(())
}
