//! Listening for notifications, on whichever node is the primary.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use sqlx::postgres::PgNotification;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::state::EngineState;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::monitor::Monitor;
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
            match self.listen_on_primary(&channels).await {
                Ok(first) => break first,
                Err(error) => {
                    let is_own = Error::of(&error)
                        .is_some_and(|own| !matches!(own, Error::NoPrimary { .. }));
                    let is_late = started.elapsed() >= self.config.routing.failover_timeout;
                    if is_own || is_late || is_final(&error) || !self.monitor().routes() {
                        return Err(error);
                    }
                }
            }
            tokio::time::sleep(pauses.next_pause()).await;
        };
        let (sender, receiver) = mpsc::channel(KEPT);
        let follower = Follower {
            engine: Arc::downgrade(self),
            monitor: Arc::clone(self.monitor()),
            channels,
            outbox: Outbox { sender: sender.clone(), has_gap: false },
        };
        let closed = self.phase.closed();
        self.tasks().spawn(async move {
            tokio::select! {
                () = follower.follow(first) => {}
                () = sender.closed() => {}
                () = closed => {}
            }
        });
        Ok(Listener(receiver))
    }

    async fn listen_on_primary(
        &self,
        channels: &[String],
    ) -> Result<(Arc<Node>, NodeListener), sqlx::Error> {
        let node = match self.monitor().routes() {
            false => self.main(),
            true => self.monitor().state().primary().cloned().ok_or_else(|| {
                let nodes = self.monitor().state().describe_nodes();
                sqlx::Error::from(Error::NoPrimary { waited: Duration::ZERO, nodes })
            })?,
        };
        let listener = node.server.listen(channels).await?;
        Ok((node, listener))
    }
}

/// Goes along with the primary. It keeps no engine alive that nobody else has.
struct Follower {
    engine: Weak<EngineState>,
    monitor: Arc<Monitor>,
    channels: Vec<String>,
    outbox: Outbox,
}

impl Follower {
    async fn follow(mut self, first: (Arc<Node>, NodeListener)) {
        let mut listening = first;
        loop {
            let (node, listener) = listening;
            let error = self.hear(&node, listener).await;
            tracing::warn!(
                node = %node.name(), error = error.map(tracing::field::display),
                "the connection that listens for notifications is lost, or the primary is another node"
            );
            self.outbox.gap();
            let Some(again) = self.listen_again().await else { return };
            listening = again;
            tracing::info!(node = %listening.0.name(), "listening for notifications again");
            self.outbox.gap();
        }
    }

    /// Passes on what the node notifies, for as long as it is the primary. Returns why that ended.
    async fn hear(&mut self, node: &Arc<Node>, mut listener: NodeListener) -> Option<sqlx::Error> {
        loop {
            let changed = self.monitor.changed();
            if !self.is_primary(node) {
                return None;
            }
            tokio::select! {
                heard = listener.next() => match heard {
                    Ok(Some(notification)) => self.outbox.send(Event::Notification(notification)),
                    Ok(None) => return None,
                    Err(error) => return Some(error),
                },
                () = self.outbox.deliver_gap(), if self.outbox.has_gap => {}
                () = changed => {}
                () = tokio::time::sleep(SILENCE) => {
                    if let Err(error) = listener.answers().await {
                        return Some(error);
                    }
                }
            }
        }
    }

    /// Whether there is no other primary.
    fn is_primary(&self, node: &Arc<Node>) -> bool {
        !self.monitor.routes()
            || self.monitor.state().primary().is_some_and(|primary| Arc::ptr_eq(primary, node))
    }

    /// Tries until it listens again. `None` if the engine is gone.
    async fn listen_again(&mut self) -> Option<(Arc<Node>, NodeListener)> {
        let mut pauses = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        loop {
            let engine = self.engine.upgrade()?;
            match engine.listen_on_primary(&self.channels).await {
                Ok(again) => return Some(again),
                Err(error) => tracing::debug!(%error, "cannot listen for notifications yet"),
            }
            drop(engine);
            tokio::time::sleep(pauses.next_jittered_pause()).await;
        }
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
