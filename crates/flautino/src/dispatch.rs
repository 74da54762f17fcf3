//! Runs a statement on a node, and on another one if the first fails: one loop that selects a node,
//! leases a connection, runs the statement, and decides about a retry.
//!
//! - here: the loop
//! - `leasing`: an attempt's lease, and what is waited for until there is one
//! - `selection`: which node an attempt goes to, and whether the node still fits once there is a
//!   connection to it
//! - `retry`: what is known of the attempts so far, what an error proves, whether to try again
//! - `budget`: how many of the primary's connections may serve reads that replicas should have
//!   served
//! - `executor`: sqlx's `Executor` on top of the loop

mod budget;
pub(crate) mod executor;
mod leasing;
mod retry;
mod selection;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use self::budget::FallbackBudget;
pub(crate) use self::retry::{Failure, Phase};
use self::retry::{NoEffect, Retry, Sent};
use crate::error::{AlreadyHolds, DeadlineStep};
use crate::lease::Lease;
use crate::monitor::{EventKind, Monitor};
use crate::node::{Demand, Node};
use crate::router::{Access, Consistency, Target};
use crate::session::Session;
use crate::sql::{Classifier, Plan};
use crate::sqlstate::{sqlstate, tell_effect};
use crate::statement::Statement;

/// The failure of a statement that is not run again. The error says whether it may have had an effect.
fn with_effect(mut failure: Failure, statement: Option<&Statement>) -> Failure {
    if let Some(Sent { statement, completed }) = failure.phase.sent(statement) {
        failure.error = tell_effect(failure.error, statement.commits_at_once(), completed);
    }
    failure
}

/// What all handles of an engine share.
pub(crate) struct DispatchContext {
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) budget: FallbackBudget,
}

/// What has the context: the state of an engine, which so stays for as long as a handle does, with all
/// tasks that end with it.
pub(crate) trait ContextOwner: Send + Sync {
    fn context(&self) -> &DispatchContext;
}

/// What is done with a lease.
pub(crate) trait Work: Send {
    type Output;

    /// Does it with the lease that `lease` holds, and may keep that. A lease that is borrowed, and not
    /// given away, takes its room in the future of each statement once.
    fn run(
        &mut self,
        lease: &mut Option<Lease>,
    ) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// Work that keeps the lease.
impl<T, W, F> Work for W
where
    W: FnMut(Lease) -> F + Send,
    F: Future<Output = Result<T, Failure>> + Send,
    T: Send,
{
    type Output = T;

    async fn run(&mut self, lease: &mut Option<Lease>) -> Result<T, Failure> {
        match lease.take() {
            Some(lease) => self(lease).await,
            None => unreachable!("work begins with a lease"),
        }
    }
}

/// Where the statements of one handle go: the cluster, the session that they belong to, and the
/// choices that were made through the handle.
#[derive(Clone)]
pub(crate) struct Dispatch {
    pub(crate) owner: Arc<dyn ContextOwner>,
    pub(crate) session: Arc<Session>,
    pub(crate) target: Target<Arc<Node>>,
    /// The consistency that was chosen through the handle. `None`: the configured one.
    pub(crate) consistency: Option<Consistency>,
    /// Until when its statements may take, with all that they wait for.
    pub(crate) deadline: Option<Instant>,
    /// What its connections are asked for with.
    pub(crate) demand: Demand,
}

impl Dispatch {
    pub(crate) fn new(owner: Arc<dyn ContextOwner>) -> Self {
        let session = Session::new(owner.context().monitor.config.token_window);
        Self {
            owner,
            session: Arc::new(session),
            target: Target::Auto,
            consistency: None,
            deadline: None,
            demand: Demand::default(),
        }
    }

    pub(crate) fn context(&self) -> &DispatchContext {
        self.owner.context()
    }

    pub(crate) fn monitor(&self) -> &Arc<Monitor> {
        &self.context().monitor
    }

    /// The consistency that holds for this handle's reads.
    pub(crate) fn effective_consistency(&self) -> Consistency {
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

    /// The main node, which is always the first one.
    fn main(&self) -> Arc<Node> {
        Arc::clone(&self.monitor().state().nodes[0])
    }

    /// Whether the statement needs the primary. Without replicas the answer would change nothing,
    /// so the statement counts as a write without being classified.
    async fn access(&self, statement: &Statement) -> Access {
        if self.monitor().stands_in() {
            Box::pin(self.monitor().get_ready()).await;
        }
        if self.monitor().routes() {
            self.context().classifier.access(statement.plan(), statement.text())
        } else {
            Access::Write
        }
    }

    /// Does the work on a lease of a node that fits `access`. If that fails, does it again on another
    /// node or later, where this is harmless.
    ///
    /// Otherwise returns the last failure.
    ///
    /// `statement` is what the work sends. `None` means that it sends nothing, or only a `BEGIN`.
    pub(crate) async fn run<W: Work>(
        &self,
        access: Access,
        statement: Option<&Statement>,
        mut work: W,
    ) -> Result<W::Output, Failure> {
        let monitor = self.monitor();
        let retries = if monitor.routes() { monitor.config.retries } else { 0 };
        let mut retry = Retry::new(self.target.kind(), retries);
        let mut lease = None;
        // What is told where there is no time to run the statement again.
        let mut last = None;
        loop {
            let access = if retry.to_primary { Access::Write } else { access };
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(last.unwrap_or_else(|| {
                    Failure::new(DeadlineStep::Waiting.exceeded(), Phase::Leasing)
                }));
            }
            let leased = match self.lease(access, statement, &mut retry, &mut lease) {
                Ok(Some(waiting)) => self.in_time(waiting).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            let failure = if let Err(error) = leased {
                if DeadlineStep::of(&error).is_some()
                    && let Some(last) = last
                {
                    return Err(last);
                }
                let error = AlreadyHolds::explain(error, self.session.leases());
                Failure::new(error, Phase::Leasing)
            } else if let Some(leased) = &mut lease {
                if retry.is_outdated {
                    leased.mark_outdated();
                }
                leased.set_deadline(self.deadline);
                let settings = self.demand.settings.as_ref();
                // Where no statement is sent, the work sees to it, together with what it sends itself. What is held
                // while the work runs takes its room in the future of each statement: nothing of this is.
                let worked = if statement.is_some()
                    && leased.lacks(settings)
                    && let Err(error) = self.in_time(Box::pin(leased.put_settings(settings))).await
                {
                    Err(Failure::new(error, Phase::Beginning))
                } else if self.deadline.is_some() && statement.is_none() {
                    // It sends a `BEGIN` at most.
                    let worked = self.until_deadline(Box::pin(work.run(&mut lease))).await;
                    worked.unwrap_or_else(|| {
                        Err(Failure::new(DeadlineStep::Waiting.exceeded(), Phase::Beginning))
                    })
                } else {
                    work.run(&mut lease).await
                };
                match worked {
                    Ok(output) => return Ok(output),
                    Err(failure) => failure,
                }
            } else {
                // The cluster changed in the meantime, so a node is selected anew.
                continue;
            };
            // Given back before anything is waited for.
            lease = None;
            // Rare: boxed, it takes no room in the future of each statement.
            let may_retry = Box::pin(self.may_retry(access, statement, &mut retry, &failure));
            // Where that is not decided by the deadline, the error stands.
            if !self.until_deadline(may_retry).await.unwrap_or(false) {
                return Err(with_effect(failure, statement));
            }
            if !retry.is_outdated {
                self.note_retry(&retry, &failure);
            }
            last = self.deadline.map(|_| with_effect(failure, statement));
            retry.begin_attempt();
        }
    }

    /// Waits until the deadline at most, and fails then.
    pub(crate) async fn in_time<T>(
        &self,
        waiting: impl Future<Output = Result<T, sqlx::Error>> + Unpin,
    ) -> Result<T, sqlx::Error> {
        let waited = self.until_deadline(waiting).await;
        waited.unwrap_or_else(|| Err(DeadlineStep::Waiting.exceeded()))
    }

    /// Returns `None` at the deadline.
    async fn until_deadline<T>(&self, work: impl Future<Output = T> + Unpin) -> Option<T> {
        match self.deadline {
            None => Some(work.await),
            Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.ok(),
        }
    }

    /// Notes for the status that a statement is run again after this failure.
    fn note_retry(&self, retry: &Retry, failure: &Failure) {
        let Some(node) = &retry.node else { return };
        let what = match failure.phase {
            Phase::Leasing => "had no connection to it",
            Phase::Beginning | Phase::Executing { .. } => "failed on it",
        };
        // Never the error's text, which may quote values.
        let code = sqlstate(&failure.error).map_or(String::new(), |code| format!(" ({code})"));
        let text = format!("a statement {what}{code} and is run again");
        self.monitor().history.record(EventKind::Rescued, node, text);
    }

    /// Whether to run the statement again after this failure. The caller has received no row yet.
    async fn may_retry(
        &self,
        access: Access,
        statement: Option<&Statement>,
        retry: &mut Retry,
        failure: &Failure,
    ) -> bool {
        let sent = failure.phase.sent(statement);
        let is_outdated = sent.is_some_and(|sent| sent.statement.is_outdated_by(&failure.error));
        if retry.may_prepare_anew(is_outdated) {
            return true;
        }
        if retry.may_run_elsewhere(access, &failure.error, sent) {
            return true;
        }
        if !retry.is_routed || matches!(self.target, Target::Node(_)) {
            // A connection that cannot be made is the caller's error: there is no other node.
            return failure.phase != Phase::Leasing
                && self.may_reconnect(access, retry, &failure.error, sent).await;
        }
        match retry.no_effect(&failure.error, sent) {
            Some(no_effect) => self.pause_and_check(retry, no_effect).await,
            None => false,
        }
    }

    /// Whether to run the statement once more on a new connection, after it lost its connection to
    /// the only node that may run it. This is harmless for a read, and if at most a `BEGIN` was sent.
    async fn may_reconnect(
        &self,
        access: Access,
        retry: &mut Retry,
        error: &sqlx::Error,
        sent: Option<Sent<'_>>,
    ) -> bool {
        if !retry.is_first_lost_connection(error) {
            return false;
        }
        match sent {
            Some(_) if retry.is_routed => access == Access::Read,
            // An engine of one node classifies a statement only here, since nothing else depends on
            // it.
            Some(Sent { statement, .. }) => {
                self.access_now(statement.plan(), statement.text()).await == Access::Read
            }
            None => true,
        }
    }

    /// Classifies a statement by the catalogue as it is now, for an engine of one node, which does
    /// not keep the catalogue up to date. If the catalogue cannot be read, the statement counts as
    /// a write.
    async fn access_now(&self, plan: &Plan, sql: &str) -> Access {
        if self.monitor().refresh_catalogue(&self.main()).await {
            self.context().classifier.access(plan, sql)
        } else {
            Access::Write
        }
    }

    /// Whether to send a statement again that provably had no effect. That is done within
    /// `failover_timeout`, and mostly only if the server is no longer the primary, so that another
    /// one may take over soon.
    async fn pause_and_check(&self, retry: &mut Retry, no_effect: NoEffect) -> bool {
        let monitor = self.monitor();
        if retry.waited() >= monitor.config.failover_timeout {
            return false;
        }
        let node = retry.node.clone();
        match (&node, no_effect) {
            // A server that shuts down ends its sessions one after the other, so the monitor's may
            // still answer. It refuses new sessions before it ends the first one, so a new probe
            // connection shows whether it shuts down.
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
