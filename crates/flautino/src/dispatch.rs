//! From a statement to a node, and to another one when that fails: select, lease, run, retry or not.
//!
//! - here: the loop
//! - `selection`: which node, and whether it still is what it was selected for
//! - `retry`: what is known of the attempts so far, and what a failure proves
//! - `budget`: how much of the primary reads may take that replicas should have served
//! - `executor`: sqlx's `Executor` in front of the loop

mod budget;
pub(crate) mod executor;
mod retry;
mod selection;

use std::sync::Arc;

pub(crate) use self::budget::FallbackBudget;
pub(crate) use self::retry::{Failure, Phase};
use self::retry::{NoEffect, Retry, Sent};
use crate::error::Error;
use crate::lease::{Decisions, Lease, Tracker, Tracking};
use crate::monitor::Monitor;
use crate::node::Node;
use crate::router::{Access, Consistency, Reason, Target};
use crate::session::Session;
use crate::sql::{Classifier, Plan};
use crate::statement::Statement;

/// How often an attempt selects anew because its node became another while a connection was waited
/// for.
const MAX_CHANGES: u32 = 5;

/// What all handles of an engine share.
pub(crate) struct Cluster {
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) decisions: Arc<Decisions>,
    pub(crate) budget: FallbackBudget,
}

/// Where the statements of one handle go: the cluster, the session they belong to, and what the
/// handle was told.
#[derive(Clone)]
pub(crate) struct Dispatch {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) session: Arc<Session>,
    pub(crate) target: Target<Arc<Node>>,
    /// `None`: as configured.
    pub(crate) consistency: Option<Consistency>,
}

impl Dispatch {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, session: Arc::default(), target: Target::Auto, consistency: None }
    }

    pub(crate) fn monitor(&self) -> &Arc<Monitor> {
        &self.cluster.monitor
    }

    pub(crate) fn level(&self) -> Consistency {
        self.consistency.unwrap_or(self.monitor().config.consistency)
    }

    /// The node that takes writes, or the one that the handle names.
    pub(crate) fn writer(&self) -> Arc<Node> {
        match &self.target {
            Target::Node(node) => Arc::clone(node),
            _ if self.monitor().routes() => Arc::clone(self.monitor().state().writer()),
            _ => self.main(),
        }
    }

    fn main(&self) -> Arc<Node> {
        Arc::clone(&self.monitor().state().nodes[0])
    }

    /// What the statement needs, as far as that matters.
    fn access(&self, statement: &Statement) -> Access {
        if self.monitor().routes() {
            self.cluster.classifier.access(statement.plan(), statement.text())
        } else {
            Access::Write
        }
    }

    /// Runs `execute` on a lease of the node that `access` asks for, and runs it again, elsewhere or
    /// later, where that is harmless. `statement` is what it sends; without one, it sends nothing, or
    /// nothing but a `BEGIN`.
    pub(crate) async fn run<T, F>(
        &self,
        access: Access,
        statement: Option<&Statement>,
        mut execute: impl FnMut(Lease) -> F,
    ) -> Result<T, sqlx::Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let monitor = self.monitor();
        let retries = if monitor.routes() { monitor.config.retries } else { 0 };
        let mut retry = Retry::new(self.target.kind(), retries);
        loop {
            let failure = match self.lease(access, statement, &mut retry).await {
                Ok(Some(lease)) => match execute(lease).await {
                    Ok(output) => return Ok(output),
                    Err(failure) => failure,
                },
                // Something changed while it waited, so it selects anew.
                Ok(None) => continue,
                Err(error) => Failure { error, phase: Phase::Leasing },
            };
            if !self.may_retry(access, statement, &mut retry, &failure).await {
                return Err(failure.error);
            }
            retry.begin_attempt();
        }
    }

    /// A lease of the node for the next attempt. `None` where something changed while it was waited
    /// for.
    async fn lease(
        &self,
        access: Access,
        statement: Option<&Statement>,
        retry: &mut Retry,
    ) -> Result<Option<Lease>, sqlx::Error> {
        let monitor = self.monitor();
        if !monitor.routes() {
            return self.lease_unrouted(retry).await.map(Some);
        }
        if statement.is_some() && access == Access::Write {
            // From now on, so that those who gather before they ask for a position wait for it.
            retry.under_way.get_or_insert_with(|| monitor.write_begins());
        }
        // Before the state is read, so that no change is missed.
        let changed = monitor.changed();
        let mut selection = self.select(access, retry, monitor.state().clone())?;
        if selection.needs_primary() {
            self.wait_for_primary(changed, retry).await?;
            return Ok(None);
        }
        if !self.fit_budget(access, retry, &mut selection).await? {
            return Ok(None);
        }
        retry.selected(selection.node(), selection.view(), selection.decision.as_writer);
        let Some(mut lease) = selection.checkout(monitor).await? else {
            if retry.note_change() < MAX_CHANGES {
                return Ok(None);
            }
            let node = self.writer().name().to_string();
            return Err(Error::NodeDown { node, sent: false }.into());
        };
        if access == Access::Read {
            lease.expect_reads();
        }
        lease.hold(selection.budget.take());
        let reason = retry.cause.unwrap_or(selection.decision.reason);
        let tracking = selection.tracking(self.level(), retry.under_way.take());
        lease.tracker = Some(self.tracker(reason, retry, Some(tracking)));
        if retry.is_outdated {
            lease.forget_prepared().await;
        }
        Ok(Some(lease))
    }

    /// A lease where nothing is routed: there is one node, or the engine is not open.
    async fn lease_unrouted(&self, retry: &Retry) -> Result<Lease, sqlx::Error> {
        let (node, reason) = match &self.target {
            // It may have a successor of its name.
            Target::Node(node) if node.left.is_cancelled() => {
                (self.monitor().node(node.name())?, Reason::NamedNode)
            }
            Target::Node(node) => (Arc::clone(node), Reason::NamedNode),
            _ => (self.main(), Reason::MainNode),
        };
        let mut lease = Lease::checkout(&node).await?;
        lease.tracker = Some(self.tracker(reason, retry, None));
        if retry.is_outdated {
            lease.forget_prepared().await;
        }
        Ok(lease)
    }

    fn tracker(&self, reason: Reason, retry: &Retry, tracking: Option<Tracking>) -> Tracker {
        let Cluster { decisions, monitor, .. } = &*self.cluster;
        let (decisions, monitor) = (Arc::clone(decisions), Arc::clone(monitor));
        Tracker::new(decisions, monitor, Arc::clone(&self.session), reason, retry.asked, tracking)
    }

    /// Whether what failed so, before its first row was given out, is to be run again.
    async fn may_retry(
        &self,
        access: Access,
        statement: Option<&Statement>,
        retry: &mut Retry,
        failure: &Failure,
    ) -> bool {
        let sent = failure.phase.sent(statement);
        if let Some(Sent { statement, .. }) = sent
            && retry.may_prepare_anew(statement, &failure.error)
        {
            return true;
        }
        if retry.may_run_elsewhere(access, &failure.error, sent) {
            return true;
        }
        if !self.monitor().routes() {
            return failure.phase != Phase::Leasing
                && self.may_reconnect(retry, &failure.error, sent).await;
        }
        match retry.no_effect(&failure.error, sent) {
            Some(no_effect) => self.may_resend(retry, no_effect).await,
            None => false,
        }
    }

    /// Whether what lost its connection to the only node is to be run once more, on a connection that
    /// answers: a read, or what sent nothing but a `BEGIN`.
    async fn may_reconnect(
        &self,
        retry: &mut Retry,
        error: &sqlx::Error,
        sent: Option<Sent<'_>>,
    ) -> bool {
        if !retry.lost_connection_first(error) {
            return false;
        }
        match sent {
            // Classified only now, since that is needed for nothing else here.
            Some(Sent { statement, .. }) => {
                self.access_now(statement.plan(), statement.text()).await == Access::Read
            }
            None => true,
        }
    }

    /// What a statement needs, by the catalogue as it is now: for an engine of one node, which does
    /// not keep it. A write where it cannot be read.
    async fn access_now(&self, plan: &Plan, sql: &str) -> Access {
        if self.monitor().refresh_catalogue(&self.main()).await {
            self.cluster.classifier.access(plan, sql)
        } else {
            Access::Write
        }
    }

    /// Whether what provably had no effect is to be sent again: within `failover_timeout`, and if its
    /// server is not the primary any more, so that there may be another one soon.
    async fn may_resend(&self, retry: &mut Retry, no_effect: NoEffect) -> bool {
        let monitor = self.monitor();
        if retry.waited() >= monitor.config.failover_timeout {
            return false;
        }
        let node = retry.node.clone();
        match (&node, no_effect) {
            // A server that shuts down ends its sessions one after the other, and the monitor's may
            // be the last. But it refuses new ones before it ends the first.
            (Some(node), NoEffect::EndedByShutdown) => monitor.renew_probe_connection(node).await,
            _ => tokio::time::sleep(retry.next_pause()).await,
        }
        let is_still_primary = match &node {
            Some(node) => monitor.is_still_primary(node, retry.attempt.incarnation).await,
            None => false,
        };
        retry.may_resend(no_effect, is_still_primary)
    }
}
