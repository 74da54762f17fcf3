//! A short run with every class of faults, in the ordinary tests.
//!
//! The seed is random and printed; `SEED=…` runs one again.
#![allow(clippy::unwrap_used)]

use flautino_torture::schedule::Fault;
use flautino_torture::{Options, run};

/// Faults that every run must have, whatever the seed.
const FIRST: [Fault; 4] =
    [Fault::Failover, Fault::AppStop, Fault::PrimaryRestart, Fault::ReplicaCut];

#[tokio::test(flavor = "multi_thread")]
async fn twenty_seconds_of_faults_break_no_promise() {
    let seed = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    let report = run(&Options {
        seed,
        seconds: Some(20),
        first: FIRST.to_vec(),
        program: Some(env!("CARGO_BIN_EXE_torture").into()),
        ..Options::new()
    })
    .await
    .unwrap();
    println!("{report}");
    assert!(report.history.episodes.iter().any(|episode| episode.failover), "no failover");
    assert!(report.history.ops.len() > 100, "{} operations", report.history.ops.len());
    assert!(report.is_clean(), "see above; again with SEED={}", report.seed);
}
