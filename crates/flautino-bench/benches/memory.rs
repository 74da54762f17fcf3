//! The classifier remembers a bounded number of statements: a million distinct ones do not grow the
//! process. Linux only, where `/proc` tells the resident memory.

use std::error::Error;
use std::time::Instant;

use flautino::{Engine, EngineConfig};
use flautino_bench::resident_kb;

const WARM_UP: u32 = 20_000;
const STATEMENTS: u32 = 1_000_000;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let engine = Engine::new(EngineConfig::from_url("postgres://localhost/none")?)?;
    let classify = |range: std::ops::Range<u32>| {
        for number in range {
            let sql =
                format!("SELECT id, title FROM notes WHERE owner = {number} ORDER BY id LIMIT 10");
            let _ = engine.access(&sql);
        }
    };
    classify(0..WARM_UP);
    let (before, started) = (resident_kb("self")?, Instant::now());
    classify(WARM_UP..WARM_UP + STATEMENTS);
    let after = resident_kb("self")?;
    println!(
        "{STATEMENTS} distinct statements: {before} kB before, {after} kB after, in {:?}",
        started.elapsed()
    );
    if after > before + 4 * 1024 {
        return Err("the process grew by more than 4 MB".into());
    }
    Ok(())
}
