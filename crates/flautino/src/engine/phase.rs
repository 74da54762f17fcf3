//! Where an engine is in its life, as one value that can be watched.

use tokio::sync::watch;

/// Where an engine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnginePhase {
    Unopened,
    Open,
    /// Open, and about to close.
    Draining,
    /// No statement starts any more; pools are being closed, or a `close` was cancelled.
    Closing,
    Closed,
}

/// The phase of an engine.
#[derive(Debug)]
pub(super) struct PhaseCell(watch::Sender<EnginePhase>);

impl PhaseCell {
    pub(super) fn new(phase: EnginePhase) -> Self {
        Self(watch::Sender::new(phase))
    }

    pub(super) fn get(&self) -> EnginePhase {
        *self.0.borrow()
    }

    pub(super) fn set(&self, phase: EnginePhase) {
        self.0.send_replace(phase);
    }

    /// Goes on to another phase if it is in one of these. Returns whether it was.
    pub(super) fn advance(&self, from: &[EnginePhase], to: EnginePhase) -> bool {
        self.0.send_if_modified(|phase| {
            let advances = from.contains(phase);
            if advances {
                *phase = to;
            }
            advances
        })
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.get(), EnginePhase::Open | EnginePhase::Draining)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.get(), EnginePhase::Closing | EnginePhase::Closed)
    }

    /// Ready when the engine closes or is closed.
    pub(super) async fn closing(&self) {
        let is_closed =
            |phase: &EnginePhase| matches!(phase, EnginePhase::Closing | EnginePhase::Closed);
        // Fails only where the sender is gone, which is this one.
        let _ = self.0.subscribe().wait_for(is_closed).await;
    }
}
