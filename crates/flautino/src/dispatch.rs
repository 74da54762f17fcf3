//! From a statement to a node, and to another one when that fails.

mod aim;
mod attempts;
mod choice;
mod routed;

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::futures::Notified;

pub(crate) use self::aim::Aim;
pub(crate) use self::attempts::Attempts;
use self::attempts::Undone;
use self::choice::Choice;
pub(crate) use self::routed::Routed;
use crate::config::{Fallback, RoutingMode};
use crate::error::Error;
use crate::handle::Handle;
use crate::lease::Lease;
use crate::meter::{Follows, Meter};
use crate::node::Node;
use crate::router::{
    Access, Consistency, Decision, Exclusion, Floor, Load, Monitor, Picture, Reason, Request,
    Snapshot, Target, route, route_stale,
};
use crate::statement::Statement;

/// How often a decision is taken anew because the nodes changed while a connection was waited for.
const MOST_CHANGES: u32 = 5;

impl Handle {
    /// A lease on the node that such a statement goes to.
    pub(crate) async fn lease(&self, access: Access) -> Result<Lease, sqlx::Error> {
        self.lease_within(access, &mut Attempts::new(self)).await
    }

    /// The node that takes writes, or the one that was named.
    pub(crate) fn writer(&self) -> Arc<Node> {
        match (&self.aim, self.engine.monitor()) {
            (Aim::Node(node), _) => Arc::clone(node),
            (_, Some(monitor)) => {
                let picture = monitor.snapshot();
                Arc::clone(&picture.servers[picture.writer])
            }
            (_, None) => Arc::clone(self.engine.main()),
        }
    }

    /// As [`lease`](Handle::lease), and goes on with other nodes where one gives no connection.
    pub(crate) async fn lease_within(
        &self,
        access: Access,
        attempts: &mut Attempts,
    ) -> Result<Lease, sqlx::Error> {
        let Some(monitor) = self.engine.monitor() else {
            let (node, reason) = match &self.aim {
                Aim::Node(node) if node.left.is_cancelled() => {
                    (self.engine.node(&node.name)?, Reason::NamedNode)
                }
                Aim::Node(node) => (Arc::clone(node), Reason::NamedNode),
                _ => (Arc::clone(self.engine.main()), Reason::MainNode),
            };
            let asked = Instant::now();
            let mut lease = Lease::checkout(&node).await?;
            let (engine, session) = (Arc::clone(&self.engine), Arc::clone(&self.session));
            lease.meter = Some(Meter::new(engine, session, reason, asked, None));
            return Ok(lease);
        };
        loop {
            match self.lease_routed(monitor, access, attempts).await {
                Err(error) if self.again(access, attempts, &error, None).await => {}
                lease => return lease,
            }
        }
    }

    /// Whether what failed so, before its first row, is to be run again. `sent` is the statement, where
    /// one was sent, and whether the server said that it was through.
    pub(crate) async fn again(
        &self,
        access: Access,
        attempts: &mut Attempts,
        error: &sqlx::Error,
        sent: Option<(&Statement, bool)>,
    ) -> bool {
        if attempts.elsewhere(access, error, sent.map(|(statement, _)| statement.plan())) {
            return true;
        }
        let Some(monitor) = self.engine.monitor() else {
            return self.once_more(attempts, error, sent.map(|(statement, _)| statement)).await;
        };
        match attempts.undone(error, sent) {
            Some(undone) => self.may_resend(monitor, attempts, undone).await,
            None => false,
        }
    }

    /// Whether what lost its connection to the only node is to be run once more, on a connection that
    /// answers: a read, which is looked at only now, or what sent nothing but a `BEGIN`.
    async fn once_more(
        &self,
        attempts: &mut Attempts,
        error: &sqlx::Error,
        statement: Option<&Statement>,
    ) -> bool {
        if !attempts.lost_connection_first(error) {
            return false;
        }
        match statement {
            Some(sent) => self.engine.access_now(sent.plan(), sent.text()).await == Access::Read,
            None => true,
        }
    }

    /// Whether what provably did nothing is to be sent again: within `failover_timeout`, and where
    /// its server is not the primary it was. Then there may be another one soon.
    async fn may_resend(
        &self,
        monitor: &Arc<Monitor>,
        attempts: &mut Attempts,
        undone: Undone,
    ) -> bool {
        if attempts.waited() >= monitor.config.failover_timeout {
            return false;
        }
        match (&attempts.server, undone) {
            // A server that shuts down ends its sessions one after the other, the monitor's too, and
            // refuses new ones before it ends the first.
            (Some(server), Undone::Ended) => monitor.renew_line(server).await,
            _ => tokio::time::sleep(attempts.pause()).await,
        }
        let stands = match &attempts.server {
            Some(server) => monitor.is_still_primary(server, attempts.incarnation).await,
            None => false,
        };
        let again = match undone {
            Undone::Unsent => true,
            // A session that is older than the server's promotion; or the server is set so.
            Undone::Refused => !stands || attempts.resent == 0,
            // If it goes on, somebody meant this session.
            Undone::Ended => !stands,
        };
        attempts.resent += 1;
        attempts.cause = Some(Reason::Retried);
        again
    }

    async fn lease_routed(
        &self,
        monitor: &Arc<Monitor>,
        access: Access,
        attempts: &mut Attempts,
    ) -> Result<Lease, sqlx::Error> {
        let asked = Instant::now();
        for _ in 0..MOST_CHANGES {
            let choice = self.choose(monitor, access, attempts).await?;
            let Some(mut lease) = choice.checkout(monitor).await? else { continue };
            if access == Access::Read {
                lease.expect_reads();
            }
            let follows = self.follows(monitor, choice.decision, &choice.picture);
            let reason = attempts.cause.unwrap_or(choice.decision.reason);
            let (engine, session) = (Arc::clone(&self.engine), Arc::clone(&self.session));
            lease.meter = Some(Meter::new(engine, session, reason, asked, Some(follows)));
            lease.hold(choice.budget);
            return Ok(lease);
        }
        let node = self.writer().name.to_string();
        Err(Error::NodeDown { node, sent: false }.into())
    }

    /// The node for the next attempt. Waits while that is the primary and there is none, and for a
    /// part of the primary's budget where it takes one.
    async fn choose(
        &self,
        monitor: &Arc<Monitor>,
        access: Access,
        attempts: &mut Attempts,
    ) -> Result<Choice, sqlx::Error> {
        loop {
            // Before the picture, so that no change is missed.
            let news = monitor.news();
            let picture = Arc::clone(&monitor.snapshot());
            let (request, decision) = self.decide(monitor, access, attempts, &picture)?;
            if decision.as_writer && !picture.takes_writes() {
                self.wait_for_primary(monitor, news, attempts).await?;
                continue;
            }
            let falls_back = || {
                let again = self.decide(monitor, access, attempts, &monitor.snapshot());
                again.is_ok_and(|(_, decision)| decision.reason.is_fallback())
            };
            let within = self.within_budget(monitor, decision, &request, &picture, falls_back);
            let Some((decision, budget)) = within.await? else { continue };
            attempts.on(decision, &picture);
            return Ok(Choice { picture, request, decision, budget });
        }
    }

    /// What a lease there tells the session.
    fn follows(&self, monitor: &Arc<Monitor>, decision: Decision, snapshot: &Snapshot) -> Follows {
        let view = &snapshot.nodes[decision.node];
        let foreign =
            matches!(view.excluded, Some(Exclusion::OtherSystem(_) | Exclusion::SeveralServers));
        let is_named = decision.reason == Reason::NamedNode;
        Follows {
            monitor: Arc::clone(monitor),
            incarnation: view.incarnation,
            is_writer: decision.as_writer || (is_named && decision.node == snapshot.writer),
            remembers_reads: !foreign && self.level() == Consistency::Session,
            writing: None,
            write: None,
            unwatched: None,
            changes_schema: false,
            bare: false,
        }
    }

    /// The node for the next attempt, as things stand in the picture.
    fn decide(
        &self,
        monitor: &Monitor,
        access: Access,
        attempts: &Attempts,
        picture: &Picture,
    ) -> Result<(Request, Decision), sqlx::Error> {
        let target = self.aim.target_in(picture, &self.engine)?;
        let request = self.request(monitor, access, target, attempts, picture);
        Ok((request, decide(monitor, &request, attempts, picture)))
    }

    /// Waits until something changes, for `failover_timeout` in all.
    async fn wait_for_primary(
        &self,
        monitor: &Monitor,
        news: Notified<'_>,
        attempts: &mut Attempts,
    ) -> Result<(), sqlx::Error> {
        let waited = attempts.waited();
        let left = monitor.config.failover_timeout.saturating_sub(waited);
        // What stopped before the news was asked for does not tell.
        let changed = monitor.is_running() && tokio::time::timeout(left, news).await.is_ok();
        if !monitor.is_running() {
            return Err(Error::Closed { node: self.writer().name.to_string() }.into());
        }
        if changed {
            return Ok(());
        }
        Err(Error::NoPrimary { waited: attempts.waited(), nodes: monitor.snapshot().roll_call() }
            .into())
    }

    fn request(
        &self,
        monitor: &Monitor,
        access: Access,
        target: Target,
        attempts: &Attempts,
        snapshot: &Snapshot,
    ) -> Request {
        let config = &monitor.config;
        let now = Instant::now();
        let floor = match (access, target) {
            (Access::Read, Target::Auto) | (_, Target::Replica) => {
                self.session.floor(self.level(), snapshot, now, config.token_window)
            }
            _ => Floor::None,
        };
        Request {
            access,
            target,
            floor,
            tried: attempts.tried_in(snapshot),
            now,
            max_lag: config.max_lag,
            slow_start: config.slow_start,
        }
    }

    /// A read that the primary runs in place of replicas takes a part of the budget for those. `None`
    /// where it need not any more, which `falls_back` tells, while it waits for that.
    async fn within_budget(
        &self,
        monitor: &Monitor,
        decision: Decision,
        request: &Request,
        snapshot: &Picture,
        falls_back: impl Fn() -> bool,
    ) -> Result<Option<(Decision, Option<OwnedSemaphorePermit>)>, sqlx::Error> {
        if !decision.reason.is_fallback() {
            return Ok(Some((decision, None)));
        }
        if decision.reason == Reason::ForeignToken && self.session.knows_of_a_promotion(snapshot) {
            monitor.suspect_all();
        }
        if let Some(permit) = monitor.try_budget() {
            return Ok(Some((decision, Some(permit))));
        }
        let node = &snapshot.servers[decision.node];
        let started = Instant::now();
        if monitor.config.fallback == Fallback::Stale {
            let load = |number| load(snapshot, number);
            if let Some(stale) = route_stale(request, snapshot, load, fastrand::u64(..)) {
                return Ok(Some((stale, None)));
            }
        }
        if monitor.config.fallback != Fallback::Refuse {
            let mut permit = pin!(monitor.wait_budget(node.acquire_timeout()));
            loop {
                let news = monitor.news();
                if !falls_back() {
                    return Ok(None);
                }
                tokio::select! {
                    permit = &mut permit => match permit {
                        Some(permit) => return Ok(Some((decision, Some(permit)))),
                        None => break,
                    },
                    () = news => {}
                }
            }
        }
        if monitor.is_running() {
            let (node, waited) = (node.name.to_string(), started.elapsed());
            Err(Error::Overloaded { node, waited }.into())
        } else {
            Err(Error::Closed { node: node.name.to_string() }.into())
        }
    }
}

/// The node for a statement, or for its next attempt.
fn decide(
    monitor: &Monitor,
    request: &Request,
    attempts: &Attempts,
    snapshot: &Picture,
) -> Decision {
    let reads = request.access == Access::Read;
    if attempts.to_primary {
        return Decision::writer(snapshot, Reason::Rescued);
    }
    if reads && request.target == Target::Auto && monitor.config.mode == RoutingMode::Primary {
        return Decision::writer(snapshot, Reason::PrimaryMode);
    }
    let decision = route(request, snapshot, |number| load(snapshot, number), fastrand::u64(..));
    // The last attempt is where a conflict with replay cannot be, in place of a replica.
    let is_last = reads && attempts.cause == Some(Reason::Retried) && attempts.left == 0;
    let has_primary = snapshot.primary.is_some_and(|primary| !request.tried.contains(primary));
    if is_last && has_primary && !decision.as_writer {
        return Decision::writer(snapshot, Reason::NoReplica);
    }
    decision
}

/// What a node carries.
fn load(picture: &Picture, number: usize) -> Load {
    let gauges = &picture.servers[number].gauges;
    Load::new(gauges.in_flight(), gauges.latency_us())
}
