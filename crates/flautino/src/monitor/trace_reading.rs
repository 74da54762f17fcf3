//! [`Reading`]: whether the traces are being read, and who asks for that.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::DropGuard;

use crate::sql::Classifier;

/// When the traces are read.
#[derive(Default)]
pub(super) struct Reading {
    /// Notified when they should be read again.
    pub(super) wanted: Arc<Notify>,
    /// Ends the loop when it is dropped; and what the loop holds for as long as it goes on, since it ends
    /// with its runtime too.
    pub(super) running: Mutex<Option<(DropGuard, Weak<()>)>>,
    /// Held by who reads them because no loop does yet.
    pub(super) first: tokio::sync::Mutex<()>,
}

impl Reading {
    /// What the classifier wants is read by this.
    pub(super) fn of(classifier: &Classifier) -> Self {
        let this = Self::default();
        let wanted = Arc::clone(&this.wanted);
        classifier.tracer().read_by(Box::new(move || wanted.notify_one()));
        this
    }

    pub(super) fn stop(&self) {
        self.running.lock().take();
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.lock().as_ref().is_some_and(|(_, going_on)| going_on.strong_count() > 0)
    }
}
