//! An attempt's lease: at once where a connection is warm; else what has to be waited for until there is
//! one.

use std::sync::Arc;

use futures_core::future::BoxFuture;

use super::Dispatch;
use super::retry::Retry;
use super::selection::Selection;
use crate::error::Error;
use crate::lease::{Lease, Tracker, Tracking};
use crate::router::{Access, Reason, Target};
use crate::statement::Statement;

/// How often one attempt may select a node anew, because its node changed while it waited for a
/// connection.
const MAX_RESELECTIONS: u32 = 5;

/// Waits until a connection is leased.
type Waiting<'a> = BoxFuture<'a, Result<(), sqlx::Error>>;

impl Dispatch {
    /// Selects the node for an attempt and leases one of its connections, into `leased`.
    ///
    /// Returns a future if something has to be waited for. It leaves `leased` empty if the cluster changed
    /// meanwhile, so that a node has to be selected anew. It is boxed, so that it takes no room in the
    /// future of a statement that waits for nothing.
    pub(super) fn lease<'a>(
        &'a self,
        access: Access,
        statement: Option<&Statement>,
        retry: &'a mut Retry,
        leased: &'a mut Option<Lease>,
    ) -> Result<Option<Waiting<'a>>, sqlx::Error> {
        let monitor = self.monitor();
        retry.is_routed = monitor.routes();
        if !retry.is_routed {
            return self.lease_unrouted(retry, leased);
        }
        if statement.is_some() && access == Access::Write {
            // Counted before it has a connection: a token that is asked for now may wait a moment,
            // so that its position covers this write too. Without a statement, nobody knows how long
            // the write will take.
            retry.write_under_way.get_or_insert_with(|| monitor.write_begins());
        }
        let mut selection = self.select(access, retry, monitor.state().clone())?;
        let Some(lease) = selection.checkout_warm(monitor, &self.demand) else {
            return Ok(Some(Box::pin(self.lease_waiting(access, selection, retry, leased))));
        };
        retry.record_selection(selection.node(), selection.view(), selection.decision.as_writer);
        self.track(leased.insert(lease), access, &mut selection, retry);
        Ok(None)
    }

    /// Waits for a primary, for the fallback budget, or for a connection to the selected node.
    async fn lease_waiting(
        &self,
        access: Access,
        mut selection: Selection,
        retry: &mut Retry,
        leased: &mut Option<Lease>,
    ) -> Result<(), sqlx::Error> {
        // Boxed, so that they take no room where only a connection is waited for.
        if selection.needs_primary() {
            return Box::pin(self.wait_for_primary(access, retry)).await;
        }
        if selection.decision.reason.is_fallback()
            && !Box::pin(self.admit_fallback(access, retry, &mut selection)).await?
        {
            return Ok(());
        }
        retry.record_selection(selection.node(), selection.view(), selection.decision.as_writer);
        let Some(lease) = selection.checkout(self.monitor(), &self.demand).await? else {
            if retry.count_reselection() < MAX_RESELECTIONS {
                return Ok(());
            }
            let node = selection.node().name().to_string();
            return Err(Error::NodeDown { node, sent: false }.into());
        };
        self.track(leased.insert(lease), access, &mut selection, retry);
        Ok(())
    }

    /// Tells a lease of the selected node what it is for, and what to report.
    fn track(
        &self,
        lease: &mut Lease,
        access: Access,
        selection: &mut Selection,
        retry: &mut Retry,
    ) {
        if access == Access::Read {
            lease.expect_reads();
        }
        lease.hold(selection.fallback_permit.take());
        let reason = retry.cause.unwrap_or(selection.decision.reason);
        let tracking = selection.tracking(self.effective_consistency(), retry);
        lease.tracker = Some(self.tracker(reason, retry, Some(tracking)));
    }

    /// As [`lease`](Self::lease), where nothing is routed: the engine has one node, or is not open.
    fn lease_unrouted<'a>(
        &'a self,
        retry: &'a Retry,
        leased: &'a mut Option<Lease>,
    ) -> Result<Option<Waiting<'a>>, sqlx::Error> {
        let (node, reason) = match &self.target {
            // The node left the engine, but another one may have taken over its name.
            Target::Node(node) if node.left.is_cancelled() => {
                (self.monitor().node(node.name())?, Reason::NamedNode)
            }
            Target::Node(node) => (Arc::clone(node), Reason::NamedNode),
            _ => (self.main(), Reason::MainNode),
        };
        let track =
            move |lease: &mut Lease| lease.tracker = Some(self.tracker(reason, retry, None));
        if let Some(lease) = Lease::warm(&node, &self.demand) {
            track(leased.insert(lease));
            return Ok(None);
        }
        Ok(Some(Box::pin(async move {
            if node.is_over_external_pool() {
                Box::pin(self.monitor().ensure_traces(&node)).await;
            }
            track(leased.insert(Lease::checkout(&node, &self.demand, || true).await?));
            Ok(())
        })))
    }

    /// Makes the tracker of a lease, which counts its statements under `reason` and reports their
    /// times to the session; with `tracking`, for routed statements, also their writes and reads.
    fn tracker(&self, reason: Reason, retry: &Retry, tracking: Option<Tracking>) -> Tracker {
        let (monitor, session) = (Arc::clone(self.monitor()), Arc::clone(&self.session));
        Tracker::new(monitor, session, reason, retry.began, tracking)
    }
}
