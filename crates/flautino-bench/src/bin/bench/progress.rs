//! A progress bar, where stderr is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::BoxError;

/// How far a run is, in rounds.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn start(rounds: u64) -> Result<Self, BoxError> {
        let bar = ProgressBar::new(rounds);
        let template = "{elapsed_precise} {wide_bar} {pos}/{len} {msg}";
        bar.set_style(ProgressStyle::with_template(template)?);
        Ok(Self(bar))
    }

    /// What is measured from now on.
    pub(crate) fn turn_to(&self, what: String) {
        self.0.set_message(what);
    }

    /// A round is over.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }

    /// Writes with the bar out of the way.
    pub(crate) fn aside(&self, write: impl FnOnce()) {
        self.0.suspend(write);
    }

    /// Removes the bar.
    pub(crate) fn end(self) {
        self.0.finish_and_clear();
    }
}
