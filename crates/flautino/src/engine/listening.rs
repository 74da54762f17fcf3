//! Listening for notifications, on whichever node is the primary.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use sqlx::postgres::PgNotification;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::state::EngineState;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::monitor::{ClusterState, Monitor};
use crate::node::{Node, NodeListener, is_final};

/// How many events wait for whoever reads them.
const KEPT: usize = 1024;
/// How long the server may be silent before it is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(15);
/// The first and the longest pause between two attempts to listen.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// What a [`Listener`] hears.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// Somebody notified the channel, with a payload, in a transaction that was committed.
    Notification(PgNotification),
    /// Notifications may have been lost: the connection was, or the primary is another one, or nobody read for a
    /// long time. Empty what you keep in step with them.
    ///
    /// A lost connection is told twice: at once, and when there is one that listens again. What was filled in
    /// between may be out of date.
    Gap,
}

/// A stream of notifications that follows the primary; see [`Engine::listen`](super::Engine::listen).
///
/// It ends when the engine closes. When it is dropped, its connection is closed.
pub struct Listener(Receiver<Event>);

impl Listener {
    /// The next event; `None` when the engine is closed.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl EngineState {
    /// See [`Engine::listen`](super::Engine::listen).
    pub(super) async fn listen(
        self: &Arc<Self>,
        channels: Vec<String>,
    ) -> Result<Listener, sqlx::Error> {
        let started = Instant::now();
        let mut pauses = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        let first = loop {
            if !self.phase.is_open() {
                return Err(Error::Closed { node: self.main().name().to_string() }.into());
            }
            let waited = started.elapsed();
            match listen_on_primary(self.monitor(), &channels, waited).await {
                Ok(first) => break first,
                Err(error) => {
                    let is_own = Error::of(&error)
                        .is_some_and(|own| !matches!(own, Error::NoPrimary { .. }));
                    let is_late = waited >= self.config.routing.failover_timeout;
                    if is_own || is_late || is_final(&error) || !self.monitor().routes() {
                        return Err(error);
                    }
                }
            }
            tokio::time::sleep(pauses.next_pause()).await;
        };
        let (sender, receiver) = mpsc::channel(KEPT);
        let unread = sender.clone();
        let closed = self.phase.closed();
        let follower = Follower {
            monitor: Arc::clone(self.monitor()),
            channels,
            outbox: Outbox { sender, has_gap: false },
        };
        self.tasks().spawn(follower.follow(first, async move {
            tokio::select! {
                () = unread.closed() => {}
                () = closed => {}
            }
        }));
        Ok(Listener(receiver))
    }
}

/// Listens on the primary, if there is one; in an engine of one node on that.
async fn listen_on_primary(
    monitor: &Monitor,
    channels: &[String],
    waited: Duration,
) -> Result<(Arc<Node>, NodeListener), sqlx::Error> {
    let state = monitor.state().clone();
    let node = primary_or_only(monitor, &state).ok_or_else(|| {
        let nodes = state.describe_nodes();
        sqlx::Error::from(Error::NoPrimary { waited, nodes })
    })?;
    let listener = node.server.listen(channels).await?;
    Ok((Arc::clone(node), listener))
}

/// Why a node is not listened to any more.
enum Left {
    /// Another node is the primary, or this one has left the engine.
    Superseded,
    /// The connection is lost.
    Lost(Option<sqlx::Error>),
}

/// Goes along with the primary.
struct Follower {
    monitor: Arc<Monitor>,
    channels: Vec<String>,
    outbox: Outbox,
}

impl Follower {
    /// Until `stop`: nobody reads any more, or the engine is closed or gone.
    async fn follow(mut self, first: (Arc<Node>, NodeListener), stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let (mut node, mut listener) = first;
        loop {
            let left = tokio::select! {
                left = self.hear(&node, &mut listener) => Some(left),
                () = &mut stop => None,
            };
            listener.close().await;
            let Some(left) = left else { return };
            self.outbox.gap();
            match left {
                Left::Superseded => tracing::info!(
                    node = %node.name(), "the node is not the primary any more; notifications may be lost"
                ),
                Left::Lost(error) => tracing::warn!(
                    node = %node.name(), error = error.map(tracing::field::display),
                    "the connection that listens is lost, and notifications with it"
                ),
            }
            (node, listener) = tokio::select! {
                again = self.listen_again() => again,
                () = &mut stop => return,
            };
            tracing::info!(node = %node.name(), "listening for notifications again");
            self.outbox.gap();
        }
    }

    /// Passes on what the node notifies, for as long as it is the primary.
    async fn hear(&mut self, node: &Arc<Node>, listener: &mut NodeListener) -> Left {
        let mut quiet_until = Instant::now() + SILENCE;
        loop {
            let changed = self.monitor.changed();
            if self.is_superseded(node) {
                return Left::Superseded;
            }
            tokio::select! {
                heard = listener.next() => match heard {
                    Ok(Some(notification)) => {
                        quiet_until = Instant::now() + SILENCE;
                        self.outbox.send(Event::Notification(notification));
                    }
                    Ok(None) => return Left::Lost(None),
                    Err(error) => return Left::Lost(Some(error)),
                },
                () = self.outbox.deliver_gap(), if self.outbox.has_gap => {}
                () = changed => {}
                () = tokio::time::sleep_until(quiet_until.into()) => {
                    if let Err(error) = listener.answers().await {
                        return Left::Lost(Some(error));
                    }
                    quiet_until = Instant::now() + SILENCE;
                }
            }
        }
    }

    /// Whether another node is the primary, or this one has left. Where no primary is known, the connection itself
    /// tells when it is lost.
    fn is_superseded(&self, node: &Arc<Node>) -> bool {
        let state = self.monitor.state();
        let primary = primary_or_only(&self.monitor, &state);
        node.left.is_cancelled() || primary.is_some_and(|primary| !Arc::ptr_eq(primary, node))
    }

    /// Tries until it listens again.
    async fn listen_again(&mut self) -> (Arc<Node>, NodeListener) {
        let Self { monitor, channels, outbox } = self;
        let listening = async {
            let mut pauses = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
            loop {
                match listen_on_primary(monitor, channels, Duration::ZERO).await {
                    Ok(again) => return again,
                    Err(error) => tracing::debug!(%error, "cannot listen for notifications yet"),
                }
                tokio::time::sleep(pauses.next_jittered_pause()).await;
            }
        };
        let mut listening = pin!(listening);
        loop {
            tokio::select! {
                again = &mut listening => return again,
                () = outbox.deliver_gap(), if outbox.has_gap => {}
            }
        }
    }
}

/// The primary, if there is one; the only node, whatever it is.
fn primary_or_only<'a>(monitor: &Monitor, state: &'a ClusterState) -> Option<&'a Arc<Node>> {
    match monitor.routes() {
        true => state.primary(),
        false => Some(&state.nodes[0]),
    }
}

/// The events that wait to be read. When there are too many, they are dropped, and a gap is told instead.
struct Outbox {
    sender: Sender<Event>,
    /// A gap is still to be told.
    has_gap: bool,
}

impl Outbox {
    fn send(&mut self, event: Event) {
        // A gap that is still to be told covers this one too.
        if !self.has_gap {
            self.has_gap = self.sender.try_send(event).is_err();
        }
    }

    fn gap(&mut self) {
        self.has_gap = self.sender.try_send(Event::Gap).is_err();
    }

    /// Tells the gap as soon as there is room for it.
    async fn deliver_gap(&mut self) {
        if let Ok(place) = self.sender.reserve().await {
            place.send(Event::Gap);
        }
        self.has_gap = false;
    }
}
