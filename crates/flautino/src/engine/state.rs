//! What all clones of an engine share.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
#[cfg(feature = "metrics")]
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

use super::common_floor::CommonFloor;
use super::members::Members;
use super::phase::{EnginePhase, PhaseCell};
use crate::config::EngineConfig;
use crate::dispatch::{ContextOwner, DispatchContext, FallbackBudget};
use crate::logging::Logger;
use crate::monitor::{Monitor, Nodes};
use crate::node::{Node, NodePool, Shared};
use crate::sql::{Classifier, Trusted};

pub(super) struct EngineState {
    pub(super) config: EngineConfig,
    pub(super) context: DispatchContext,
    /// What all nodes share, to make new ones.
    pub(super) shared: Shared,
    pub(super) common_floor: CommonFloor,
    pub(super) members: Mutex<Members>,
    pub(super) phase: PhaseCell,
    /// Held while opening, closing or changing the nodes, so that these happen one at a time.
    pub(super) lifecycle_lock: tokio::sync::Mutex<()>,
    /// Ends the task that resolves the replicas' name, when it is dropped.
    pub(super) discovery: Mutex<Option<DropGuard>>,
    /// Ends the task that measures, when it is dropped.
    #[cfg(feature = "metrics")]
    pub(super) measuring: Mutex<Option<Measuring>>,
    /// Ends the task that notices the end of the runtime, when it is dropped.
    pub(super) runtime_watch: Mutex<Option<DropGuard>>,
    /// The pools that `close` has to close: those of the nodes, and those of removed nodes that the app
    /// still holds connections of.
    pub(super) pools: Mutex<Vec<Arc<NodePool>>>,
}

/// The task that measures; it ends when this is dropped.
#[cfg(feature = "metrics")]
pub(super) struct Measuring {
    task: JoinHandle<()>,
    _stop: DropGuard,
}

#[cfg(feature = "metrics")]
impl Measuring {
    pub(super) fn new(task: JoinHandle<()>, stop: DropGuard) -> Self {
        Self { task, _stop: stop }
    }

    /// Whether its runtime has not ended.
    pub(super) fn goes_on(&self) -> bool {
        !self.task.is_finished()
    }
}

impl EngineState {
    /// `nodes` has the main node first. `catalogue_wanted` is notified when the classifier needs the
    /// server's catalogue.
    pub(super) fn new(
        nodes: Vec<Arc<Node>>,
        config: EngineConfig,
        shared: Shared,
        catalogue_wanted: Arc<Notify>,
        phase: EnginePhase,
    ) -> Self {
        let (routing, classifier) = (config.routing.clone(), Arc::clone(&shared.classifier));
        let monitor = Monitor::new(nodes, routing, Arc::clone(&classifier), catalogue_wanted);
        let context = DispatchContext { monitor, classifier, budget: FallbackBudget::default() };
        Self {
            context,
            common_floor: CommonFloor::default(),
            members: Mutex::new(Members::new(&config)),
            config,
            shared,
            phase: PhaseCell::new(phase),
            lifecycle_lock: tokio::sync::Mutex::default(),
            discovery: Mutex::default(),
            #[cfg(feature = "metrics")]
            measuring: Mutex::default(),
            runtime_watch: Mutex::default(),
            pools: Mutex::default(),
        }
    }

    pub(super) fn monitor(&self) -> &Arc<Monitor> {
        &self.context.monitor
    }

    /// The main node first.
    pub(super) fn nodes(&self) -> Nodes {
        self.monitor().nodes()
    }

    pub(super) fn main(&self) -> Arc<Node> {
        Arc::clone(&self.nodes()[0])
    }

    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.shared.tasks
    }
}

impl ContextOwner for EngineState {
    fn context(&self) -> &DispatchContext {
        &self.context
    }
}

/// Makes what all nodes share. Returns it with what the classifier notifies when it needs the server's
/// catalogue.
pub(super) fn new_shared(config: &EngineConfig) -> (Shared, Arc<Notify>) {
    let EngineConfig { log_queries, log_responses, log_slow, log_repeated, .. } = *config;
    let logger = Arc::new(Logger::new(log_queries, log_responses, log_slow, log_repeated));
    let (classifier, catalogue_wanted) = new_classifier(config);
    let (hooks, tasks) = (Arc::default(), TaskTracker::new());
    let engine = config.name.as_str().into();
    (Shared { engine, logger, classifier, hooks, tasks }, catalogue_wanted)
}

/// Makes the classifier. Returns it with what it notifies when it
/// needs the server's catalogue.
fn new_classifier(config: &EngineConfig) -> (Arc<Classifier>, Arc<Notify>) {
    let wanted = Arc::new(Notify::new());
    let want = Arc::clone(&wanted);
    let refresh = Box::new(move || want.notify_one());
    let trusted = Trusted {
        functions: config.trusted_functions.clone(),
        languages: config.trusted_languages.clone(),
    };
    let classifier = Classifier::new(config.routing.statement_cache, refresh).trusting(trusted);
    (Arc::new(classifier), wanted)
}
