//! A node that was chosen, and whether it still is what it was chosen for.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::error::Error;
use crate::lease::Lease;
use crate::router::{Decision, Monitor, Picture, Request, Target};

/// A node for a statement, and what that was decided on.
pub(super) struct Choice {
    pub(super) picture: Arc<Picture>,
    pub(super) request: Request,
    pub(super) decision: Decision,
    /// A part of what the primary has for reads that no replica could serve.
    pub(super) budget: Option<OwnedSemaphorePermit>,
}

impl Choice {
    /// A connection there; `None` where the node has become another, or has left, while it was
    /// waited for.
    pub(super) async fn checkout(&self, monitor: &Monitor) -> Result<Option<Lease>, sqlx::Error> {
        let server = &self.picture.servers[self.decision.node];
        let is_named = matches!(self.request.target, Target::Node(_));
        let up = || {
            let now = monitor.snapshot();
            is_named || now.number(server).is_some_and(|number| now.nodes[number].up)
        };
        let lease = Lease::checkout_while(server, up).await;
        let now = monitor.snapshot();
        let here = now.number(server);
        let unused = match &lease {
            Ok(_) => true,
            Err(error) => {
                here.is_none()
                    || matches!(Error::of(error), Some(Error::NodeDown { sent: false, .. }))
            }
        };
        let stands = here.is_some_and(|number| is_named || self.stands(&now, number));
        if unused && !stands { Ok(None) } else { lease.map(Some) }
    }

    /// Whether the node, which has this number now, is still what it was chosen for.
    fn stands(&self, now: &Picture, number: usize) -> bool {
        let (decided, node) = (self.decision.node, &now.nodes[number]);
        if self.decision.as_writer {
            return now.writer == number && now.takes_writes();
        }
        node.is_usable_replica()
            && node.incarnation == self.picture.nodes[decided].incarnation
            && self.request.floor.admits(decided, node)
    }
}
