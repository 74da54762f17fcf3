//! Whether an engine is open, closed or in between, as one value that can be watched.

use tokio::sync::watch;

/// Whether an engine is open, closed or in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnginePhase {
    Unopened,
    Open,
    /// Open, but [`Engine::start_draining`](super::Engine::start_draining) was called.
    Draining,
    /// No statement starts any more. The pools are being closed, or a `close` was cancelled half-way.
    Closing,
    /// It was open, and the runtime has ended that its tasks and sockets belonged to.
    Stranded,
    Closed,
}

impl EnginePhase {
    fn is_closed(self) -> bool {
        matches!(self, Self::Closing | Self::Stranded | Self::Closed)
    }
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

    /// Goes on to the phase `to` if the engine is in one of `from`. Returns whether it was.
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
        self.get().is_closed()
    }

    /// Waits until the engine closes or is closed.
    pub(super) async fn closing(&self) {
        self.closed().await;
    }

    /// As [`closing`](Self::closing); it is ready, too, when the engine is dropped.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut phase = self.0.subscribe();
        async move {
            // Fails if the sender is dropped with the engine.
            let _ = phase.wait_for(|phase| phase.is_closed()).await;
        }
    }
}
