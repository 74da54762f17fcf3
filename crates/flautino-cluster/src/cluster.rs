//! A cluster: its nodes, and the end of them.

use std::iter::successors;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;

use crate::context::Context;
use crate::error::ClusterError;
use crate::node::Node;
use crate::wait::blocking;

/// A primary and its replicas, each a real PostgreSQL server, gone without a trace on drop.
///
/// Drop needs no runtime, works in a panic, and takes a few milliseconds, or a few seconds when a
/// server does not end by itself. [`stop`](Self::stop) is the same for async code.
#[derive(Debug)]
pub struct Cluster {
    first: Box<Member>,
    /// The number of replicas made so far, for the name of the next one.
    replicas: AtomicUsize,
    context: Arc<Context>,
}

impl Cluster {
    /// The node that began as the primary, named `primary`, whatever was promoted since.
    #[must_use]
    pub fn primary(&self) -> &Node {
        &self.first.node
    }

    /// The replica of this index: `replica(0)` is named `replica_1`.
    ///
    /// # Panics
    ///
    /// When there is no such replica.
    #[must_use]
    pub fn replica(&self, index: usize) -> &Node {
        let count = self.nodes().count() - 1;
        self.nodes()
            .nth(index + 1)
            .unwrap_or_else(|| panic!("there is no replica({index}); the cluster has {count}"))
    }

    /// All nodes: the primary, then the replicas in the order in which they were made.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.members().map(|member| &member.node)
    }

    /// The node of this name.
    ///
    /// # Errors
    ///
    /// When there is none; the error lists those that there are.
    pub fn node(&self, name: &str) -> Result<&Node, ClusterError> {
        let found = self.nodes().find(|node| node.name() == name);
        found.ok_or_else(|| ClusterError::UnknownNode {
            name: name.to_owned(),
            known: self.nodes().map(|node| node.name().to_owned()).collect(),
        })
    }

    /// Adds a replica of a node that runs, a replica perhaps, and waits until it streams.
    ///
    /// # Errors
    ///
    /// When `of` cannot be copied, or the new server does not come up and stream within the
    /// cluster's timeout.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, there is no new node.
    pub async fn add_replica(&self, of: &Node) -> Result<&Node, ClusterError> {
        let node = Node::new(&self.next_name(), None, &self.context)?;
        node.copy_from(of).await?;
        // The port may still change, since nobody has seen the node yet.
        node.start_as_replica(of, true).await?;
        Ok(self.push(node))
    }

    /// Stops all servers in order and removes all that there was.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, the drop of the cluster does the rest.
    pub async fn stop(self) {
        // A server that does not stop in order is ended by the drop below.
        let stops = self.nodes().map(Node::stop);
        let _ = tokio::time::timeout(STOP_TIMEOUT, join_all(stops)).await;
        blocking(move || drop(self)).await;
    }
}

/// How long an orderly stop may take before it becomes an immediate one.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

impl Cluster {
    pub(crate) fn new(primary: Node, context: Arc<Context>) -> Self {
        let first = Box::new(Member { node: primary, next: OnceLock::new() });
        Self { first, replicas: AtomicUsize::new(0), context }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn next_name(&self) -> String {
        format!("replica_{}", self.replicas.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(crate) fn push(&self, node: Node) -> &Node {
        let mut pending = Some(Box::new(Member { node, next: OnceLock::new() }));
        let mut last = &self.first;
        loop {
            last = last.next.get_or_init(|| pending.take().expect("a member is placed once"));
            if pending.is_none() {
                return &last.node;
            }
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        successors(Some(&*self.first), |member| member.next.get().map(|next| &**next))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All servers begin to end at once; the drop of each node then waits for its own.
        for node in self.nodes() {
            node.server().begin_end();
        }
    }
}

/// A list that only grows, so that a reference to a node outlasts the addition of others.
#[derive(Debug)]
struct Member {
    node: Node,
    next: OnceLock<Box<Member>>,
}
