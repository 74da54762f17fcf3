//! From a statement to a node, and to another one when that fails.

use std::sync::Arc;
use std::time::Instant;

use futures_core::Stream;
use futures_util::StreamExt;
use sqlx::postgres::PgDatabaseError;
use tokio::sync::OwnedSemaphorePermit;

use crate::config::{Fallback, RoutingMode};
use crate::error::{AcquireStep, Error};
use crate::executor::{Answer, Item, Source, Start};
use crate::handle::Handle;
use crate::lease::{Lease, server_keeps_session, sqlstate};
use crate::meter::{Follows, Meter};
use crate::node::{Node, Role};
use crate::router::{
    Access, Consistency, Decision, Exclusion, Floor, Load, Monitor, Plan, Reason, Request,
    Snapshot, Target, Tried, route, route_stale,
};
use crate::statement::Statement;

/// How often a decision is taken anew because the nodes changed while a connection was waited for.
const MOST_CHANGES: u32 = 5;

impl Handle {
    /// A lease on the node that such a statement goes to.
    pub(crate) async fn lease(&self, access: Access) -> Result<Lease, sqlx::Error> {
        self.lease_within(access, &mut Attempts::new(self)).await
    }

    /// The node that takes writes.
    pub(crate) fn writer(&self) -> &Arc<Node> {
        let number = match (self.target, self.engine.monitor()) {
            (Target::Node(number), _) => number,
            (_, Some(monitor)) => monitor.snapshot().writer,
            (_, None) => 0,
        };
        &self.engine.nodes()[number]
    }

    /// As [`lease`](Handle::lease), and goes on with other nodes where one gives no connection.
    pub(crate) async fn lease_within(
        &self,
        access: Access,
        attempts: &mut Attempts,
    ) -> Result<Lease, sqlx::Error> {
        let Some(monitor) = self.engine.monitor() else {
            let (number, reason) = match self.target {
                Target::Node(number) => (number, Reason::NamedNode),
                Target::Auto | Target::Primary | Target::Replica => (0, Reason::MainNode),
            };
            let asked = Instant::now();
            let mut lease = Lease::checkout(&self.engine.nodes()[number]).await?;
            let (engine, session) = (Arc::clone(&self.engine), Arc::clone(&self.session));
            lease.meter = Some(Meter::new(engine, session, reason, asked, None));
            return Ok(lease);
        };
        loop {
            match self.lease_routed(monitor, access, attempts).await {
                Err(error) if attempts.again(access, &error, None) => {}
                result => return result,
            }
        }
    }

    async fn lease_routed(
        &self,
        monitor: &Arc<Monitor>,
        access: Access,
        attempts: &mut Attempts,
    ) -> Result<Lease, sqlx::Error> {
        let asked = Instant::now();
        for _ in 0..MOST_CHANGES {
            let snapshot = monitor.snapshot().clone();
            let request = self.request(monitor, access, attempts, &snapshot);
            let decision = self.decide(monitor, &request, attempts, &snapshot);
            let (decision, budget) =
                self.within_budget(monitor, decision, &request, &snapshot).await?;
            attempts.on(decision, &snapshot);
            let mut lease = Lease::checkout(&self.engine.nodes()[decision.node]).await?;
            let on_replica = decision.node != snapshot.writer;
            // Waiting may have taken long enough for the node to become another.
            let now = monitor.snapshot();
            let stands = match self.target {
                Target::Node(_) => true,
                _ if on_replica => {
                    let node = &now.nodes[decision.node];
                    node.is_usable_replica() && request.floor.admits(decision.node, node)
                }
                _ => now.writer == decision.node,
            };
            if !stands {
                continue;
            }
            if access == Access::Read {
                lease.expect_reads();
            }
            let reason = attempts.cause.unwrap_or(decision.reason);
            let (engine, session) = (Arc::clone(&self.engine), Arc::clone(&self.session));
            let view = &snapshot.nodes[decision.node];
            let foreign = matches!(
                view.excluded,
                Some(Exclusion::OtherSystem(_) | Exclusion::SeveralServers)
            );
            let follows = Follows {
                monitor: Arc::clone(monitor),
                node: decision.node,
                incarnation: view.incarnation,
                is_writer: !on_replica,
                remembers_reads: !foreign && self.level() == Consistency::Session,
                writing: None,
                write: None,
                unwatched: None,
                changes_schema: false,
                bare: false,
            };
            lease.meter = Some(Meter::new(engine, session, reason, asked, Some(follows)));
            lease.hold(budget);
            return Ok(lease);
        }
        let node = self.writer().name.to_string();
        Err(Error::NodeDown { node, sent: false }.into())
    }

    fn request(
        &self,
        monitor: &Monitor,
        access: Access,
        attempts: &Attempts,
        snapshot: &Snapshot,
    ) -> Request {
        let config = &monitor.config;
        let now = Instant::now();
        let floor = match (access, self.target) {
            (Access::Read, Target::Auto) | (_, Target::Replica) => {
                self.session.floor(self.level(), snapshot, now, config.token_window)
            }
            _ => Floor::None,
        };
        Request {
            access,
            target: self.target,
            floor,
            tried: attempts.tried,
            now,
            max_lag: config.max_lag,
            slow_start: config.slow_start,
        }
    }

    fn decide(
        &self,
        monitor: &Monitor,
        request: &Request,
        attempts: &Attempts,
        snapshot: &Snapshot,
    ) -> Decision {
        let reads = request.access == Access::Read;
        if attempts.to_primary {
            return Decision { node: snapshot.writer, reason: Reason::Rescued };
        }
        // The last attempt is where a conflict with replay cannot be.
        let primary = snapshot.primary.filter(|primary| !request.tried.contains(*primary));
        if let (Some(Reason::Retried), 0, Some(node), true) =
            (attempts.cause, attempts.left, primary, reads)
        {
            return Decision { node, reason: Reason::Retried };
        }
        if reads && self.target == Target::Auto && monitor.config.mode == RoutingMode::Primary {
            return Decision { node: snapshot.writer, reason: Reason::PrimaryMode };
        }
        route(request, snapshot, |number| self.load(number), fastrand::u64(..))
    }

    fn load(&self, number: usize) -> Load {
        let gauges = &self.engine.nodes()[number].gauges;
        Load::new(gauges.in_flight(), gauges.latency_us())
    }

    /// A read that the primary runs in place of replicas takes a part of the budget for those.
    async fn within_budget(
        &self,
        monitor: &Monitor,
        decision: Decision,
        request: &Request,
        snapshot: &Snapshot,
    ) -> Result<(Decision, Option<OwnedSemaphorePermit>), sqlx::Error> {
        if !decision.reason.is_fallback() {
            return Ok((decision, None));
        }
        if decision.reason == Reason::ForeignToken && self.session.knows_of_a_promotion(snapshot) {
            monitor.suspect_all();
        }
        if let Some(permit) = monitor.try_budget() {
            return Ok((decision, Some(permit)));
        }
        let node = &self.engine.nodes()[decision.node];
        let started = Instant::now();
        if monitor.config.fallback == Fallback::Stale {
            let load = |number| self.load(number);
            if let Some(stale) = route_stale(request, snapshot, load, fastrand::u64(..)) {
                return Ok((stale, None));
            }
        }
        if monitor.config.fallback != Fallback::Refuse
            && let Some(permit) = monitor.wait_budget(node.acquire_timeout()).await
        {
            return Ok((decision, Some(permit)));
        }
        if monitor.is_running() {
            let (node, waited) = (node.name.to_string(), started.elapsed());
            Err(Error::Overloaded { node, waited }.into())
        } else {
            Err(Error::Closed { node: node.name.to_string() }.into())
        }
    }
}

/// Where a statement has been tried, and whether it may be tried again.
pub(crate) struct Attempts {
    tried: Tried,
    left: u32,
    /// Why it is not the first attempt.
    cause: Option<Reason>,
    /// A standby refused it as a write.
    to_primary: bool,
    target: Target,
    /// Where the current attempt goes.
    node: usize,
    on_replica: bool,
    on_writer: bool,
}

impl Attempts {
    pub(crate) fn new(handle: &Handle) -> Self {
        Self {
            tried: Tried::default(),
            left: handle.engine.monitor().map_or(0, |monitor| monitor.config.retries),
            cause: None,
            to_primary: false,
            target: handle.target,
            node: 0,
            on_replica: false,
            on_writer: true,
        }
    }

    fn on(&mut self, decision: Decision, snapshot: &Snapshot) {
        self.node = decision.node;
        self.on_replica = snapshot.nodes[decision.node].role == Role::Replica;
        self.on_writer = decision.node == snapshot.writer;
    }

    /// Whether this may be run again, after it failed so before its first row; `plan` is the
    /// statement's, where one was sent.
    ///
    /// A read may, since it did nothing. What was asked of a replica may while a standby ran it,
    /// which cannot write. A write is sent once.
    pub(crate) fn again(
        &mut self,
        access: Access,
        error: &sqlx::Error,
        plan: Option<&Plan>,
    ) -> bool {
        let code = sqlstate(error).unwrap_or_default();
        let harmless = match self.target {
            Target::Auto => access == Access::Read,
            Target::Replica => self.on_replica,
            Target::Primary | Target::Node(_) => false,
        };
        if !harmless {
            return self.was_refused(error, plan);
        }
        if self.on_replica && self.target == Target::Auto && is_for_the_primary(&code) {
            if let (Some(plan), "25006" | "0A000") = (plan, &*code) {
                plan.rescue();
            }
            self.cause = Some(Reason::Rescued);
            let first = !self.to_primary;
            self.to_primary = true;
            return first;
        }
        if self.left == 0 || !self.failed_with_node(error, &code) {
            return false;
        }
        self.left -= 1;
        self.tried.insert(self.node);
        self.cause = Some(Reason::Retried);
        true
    }

    /// Whether a write was refused as read-only, and so provably did nothing: a demoted primary, or
    /// a session from before a promotion. It is sent once more, over a new connection. A text that
    /// can commit on its own is not: it may have done so before.
    fn was_refused(&mut self, error: &sqlx::Error, plan: Option<&Plan>) -> bool {
        let again = refuses_command(error)
            && self.on_writer
            && !matches!(self.target, Target::Node(_))
            && self.cause.is_none()
            && plan.is_some_and(|plan| plan.look.is_query && !plan.look.several);
        if again {
            self.cause = Some(Reason::Retried);
        }
        again
    }

    /// Whether the error is the node's, and another node may do better.
    fn failed_with_node(&self, error: &sqlx::Error, code: &str) -> bool {
        match (error, Error::of(error)) {
            // It waited for all its time already; elsewhere is worth another wait.
            (_, Some(Error::AcquireTimeout { step: AcquireStep::Connecting, .. })) => {
                !self.on_writer
            }
            (_, Some(own)) => matches!(own, Error::NodeDown { .. }),
            (sqlx::Error::Database(_), None) if server_keeps_session(error) => {
                // A conflict with recovery; on a primary it is the author's to answer.
                self.on_replica && matches!(code, "40001" | "40P01")
            }
            // A FATAL of the server (terminated, starting or stopping, no connection left, a
            // conflict), or none of its words at all.
            (error, None) => matches!(
                error,
                sqlx::Error::Database(_)
                    | sqlx::Error::Io(_)
                    | sqlx::Error::Protocol(_)
                    | sqlx::Error::WorkerCrashed
            ),
        }
    }
}

/// Whether the server refused a command as read-only, and not a function of the user's own with that
/// code: it tells which of its routines did.
fn refuses_command(error: &sqlx::Error) -> bool {
    let error =
        error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| {
        error.code() == "25006"
            && error.routine().is_some_and(|routine| routine.starts_with("PreventCommand"))
    })
}

/// Whether a standby's refusal may be no answer of the primary's: it is read-only; it is in
/// recovery, or has no unlogged tables and no serializable transactions for that; or it does not know
/// a relation, a column, a function or a type *yet*, since a migration has not reached it.
fn is_for_the_primary(code: &str) -> bool {
    matches!(code, "25006" | "55000" | "0A000" | "42P01" | "42703" | "42883" | "42704" | "3F000")
}

/// A statement through a handle: sent where the router says, and run again elsewhere where that
/// is harmless.
pub(crate) struct Routed {
    handle: Handle,
}

impl Routed {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// A write counts as under way from now on, so that those who wait for a position wait for it.
    async fn lease(&self, access: Access, attempts: &mut Attempts) -> Result<Lease, sqlx::Error> {
        let monitor = self.handle.engine.monitor().filter(|_| access == Access::Write);
        let writing = monitor.map(Monitor::write_begins);
        let mut lease = self.handle.lease_within(access, attempts).await?;
        if let Some(meter) = &mut lease.meter {
            meter.adopt(writing);
        }
        Ok(lease)
    }

    /// What the statement needs, as far as that matters.
    fn access(&self, statement: &Statement) -> Access {
        match self.handle.engine.monitor() {
            Some(monitor) => monitor.access(statement.plan(), statement.text()),
            None => Access::Write,
        }
    }
}

impl Source for Routed {
    async fn run<T: Answer + Send>(
        &mut self,
        statement: Statement,
        start: impl Start<T>,
    ) -> Result<T, sqlx::Error> {
        let access = self.access(&statement);
        let mut attempts = Attempts::new(&self.handle);
        loop {
            let mut lease = self.lease(access, &mut attempts).await?;
            match lease.run(statement.clone(), &start).await {
                Err(error) if attempts.again(access, &error, Some(statement.plan())) => {}
                result => return result,
            }
        }
    }

    fn stream(
        &mut self,
        statement: Statement,
    ) -> impl Stream<Item = Result<Item, sqlx::Error>> + Send {
        async_stream::try_stream! {
            let access = self.access(&statement);
            let mut attempts = Attempts::new(&self.handle);
            'attempt: loop {
                let mut lease = self.lease(access, &mut attempts).await?;
                let mut items = std::pin::pin!(lease.stream(statement.clone()));
                let mut untouched = true;
                while let Some(item) = items.next().await {
                    match item {
                        Err(error)
                            if untouched
                                && attempts.again(access, &error, Some(statement.plan())) =>
                        {
                            continue 'attempt;
                        }
                        item => {
                            untouched = false;
                            yield item?;
                        }
                    }
                }
                break;
            }
        }
    }
}
