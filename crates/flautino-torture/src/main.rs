//! `torture`, and its hidden subcommand `app`, as which it starts itself.

use std::process::ExitCode;

use clap::Parser;
use flautino_torture::{Options, app, run};
use tokio::signal::unix::{SignalKind, signal};

/// The exit codes: all promises kept, one broken, or the run itself failed.
const CLEAN: u8 = 0;
const VIOLATED: u8 = 1;
const FAILED: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("app") {
        return match app::run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("app: {error}");
                ExitCode::FAILURE
            }
        };
    }
    ExitCode::from(torture(&Options::parse()).await)
}

async fn torture(options: &Options) -> u8 {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        eprintln!("torture: cannot listen for signals");
        return FAILED;
    };
    // Dropping the run ends all of its processes.
    let outcome = tokio::select! {
        outcome = Box::pin(run(options)) => outcome,
        _ = terminate.recv() => Err("ended by SIGTERM".into()),
        _ = interrupt.recv() => Err("ended by Ctrl-C".into()),
    };
    match outcome {
        Ok(report) => {
            print!("{report}");
            if report.is_clean() { CLEAN } else { VIOLATED }
        }
        Err(error) => {
            eprintln!("torture: the run failed: {error}");
            FAILED
        }
    }
}
