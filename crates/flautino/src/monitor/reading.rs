//! When the catalogue is read, and what follows from it.
//!
//! A statement of the engine that may have changed the schema raises a *doubt*: until a reading that
//! began afterwards has ended, all that names anything of the user's own is a write. What other
//! programs change is noticed by the catalogue's fingerprint, which the primary is asked for again
//! and again. Where that has not changed, nothing more is read.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::Connection;
use tokio::sync::Notify;

use super::catalogue::TIMEOUT;
use super::readings::Refreshed;
use super::{ClusterState, Monitor};
use crate::backoff::Backoff;
use crate::error::timed_out;
use crate::node::Node;
use crate::sql::HiddenUse;
use crate::sqlstate::server_keeps_session;

/// How often the primary is asked for the fingerprint at least. `probe_interval` may make it longer.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A check takes the server at most this share of the time: after one that took 100 ms the next waits
/// 2 s. One that is requested waits half as long.
const CHECK_SHARE: u32 = 20;
/// The pause before the next attempt if no node answered.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The first and the longest pause after the server refused or needed too long; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// For how long, at least, what cannot be followed is trusted to leave the schema alone, after it did
/// so. Longer than its check took by far, so that reads mostly reach replicas.
const TRUST: Duration = Duration::from_secs(1);

impl Monitor {
    /// Reads the catalogue for the first time since the monitor started. Until that has succeeded, all
    /// that names anything of the user's own is a write. Returns when to read it again.
    pub(super) async fn begin_reading(&self) -> Next {
        self.readings.lock().await.first_doubt = self.classifier.doubt();
        self.read_catalogue().await
    }

    /// Brings the catalogue up to date, from the primary, or if that does not answer and nothing is
    /// known yet, from a replica. A replica may lack a new function; calls of a function that is not
    /// in the catalogue go to the primary. Returns when to do so again.
    async fn read_catalogue(&self) -> Next {
        let mut readings = self.readings.lock().await;
        let was_suspected = self.is_suspected.swap(false, Ordering::AcqRel);
        let ClusterState { nodes, snapshot } = &*self.state().clone();
        let others = (0..nodes.len()).filter(|number| {
            let node = &snapshot.nodes[*number];
            Some(*number) != snapshot.primary && node.up && node.excluded.is_none()
        });
        for number in snapshot.primary.into_iter().chain(others) {
            let node = &nodes[number];
            let is_primary = Some(number) == snapshot.primary;
            if !is_primary && readings.fingerprint.is_some() {
                continue;
            }
            // The server stops by itself after `TIMEOUT`. This timeout is for a server that does
            // not answer.
            let refreshing = readings.refresh(&node.server, &self.classifier, is_primary);
            let error = match tokio::time::timeout(TIMEOUT * 2, refreshing).await {
                Ok(Ok(refreshed)) => {
                    let next = match refreshed {
                        Refreshed::Postponed { rest } => {
                            self.is_suspected.fetch_or(was_suspected, Ordering::AcqRel);
                            return Next::In(rest);
                        }
                        Refreshed::Unchanged { check } => {
                            if was_suspected {
                                let trust = TRUST.max(check * CHECK_SHARE);
                                *self.trusted_until.lock() = Some(Instant::now() + trust);
                            }
                            Next::After(check)
                        }
                        Refreshed::Read { check, differs } => {
                            self.classifier.tracer().want();
                            if differs {
                                self.report_catalogue(node);
                            }
                            Next::After(check)
                        }
                    };
                    // A replica is read only until there is a primary.
                    return if is_primary { next } else { Next::In(RETRY_PAUSE) };
                }
                Ok(Err(error)) => error,
                Err(_) => timed_out("no answer in time"),
            };
            tracing::warn!(
                node = %node.name(), %error,
                "the catalogue could not be read; until it can, calls of functions it did not list go \
                 to the primary, and after a change of the schema all that names anything of its own"
            );
            // The catalogue is too large, or this role may not read it. Other nodes would answer
            // the same, so try again less and less often.
            if server_keeps_session(&error) {
                return Next::Later;
            }
        }
        Next::In(RETRY_PAUSE)
    }

    /// Logs that the catalogue has changed, and what it holds that makes every query a write.
    fn report_catalogue(&self, node: &Node) {
        tracing::debug!(node = %node.name(), "the catalogue has changed");
        let hidden = self.classifier.hidden_uses();
        let mut reported = self.reported_hidden.lock();
        if *reported != hidden && !hidden.is_empty() {
            let what: Vec<_> = hidden.iter().map(|HiddenUse(what)| &**what).collect();
            tracing::warn!(
                node = %node.name(),
                "every query goes to the primary, because any may use {}, whose function is \
                 volatile or leads to one; declare it STABLE or IMMUTABLE if it writes nothing, or \
                 drop what uses it",
                what.join(", and ")
            );
        }
        *reported = hidden;
    }

    /// A statement of this engine may have changed the schema: from now on, until the catalogue is
    /// read again, what names anything of the user's own is a write.
    pub(crate) fn doubt_catalogue(&self) {
        self.classifier.doubt();
        self.request_catalogue();
    }

    /// Something ran that cannot be followed: a procedure, or what an app sent over the connection
    /// itself. This is a doubt as well, unless the same was harmless a moment ago, so that reads still
    /// reach replicas where it goes on all the time; the schema is looked at at once anyway.
    pub(crate) fn suspect_catalogue(&self) {
        let is_trusted = self.trusted_until.lock().is_some_and(|until| Instant::now() < until);
        if !is_trusted {
            self.is_suspected.store(true, Ordering::Release);
            self.classifier.doubt();
        }
        self.request_catalogue();
    }

    /// Requests that the catalogue be looked at soon.
    pub(crate) fn request_catalogue(&self) {
        self.catalogue_wanted.notify_one();
    }

    /// Returns the loop that keeps the catalogue up to date.
    pub(super) fn keep_reading_catalogue(
        self: &Arc<Self>,
        next: Next,
    ) -> impl Future<Output = ()> + Send + use<> {
        let interval = self.config.probe_interval.max(CHECK_INTERVAL);
        keep_reading(Arc::downgrade(self), Arc::clone(&self.catalogue_wanted), interval, next)
    }

    /// Closes the connection over which the catalogue is read.
    pub(super) async fn close_catalogue(&self) {
        let connection = self.readings.lock().await.connection.take();
        if let Some(connection) = connection {
            let _ = connection.close().await;
        }
    }

    /// Brings the catalogue of an engine's only node up to date, for which no loop does so. Takes at
    /// most the node's `acquire_timeout`. Returns whether it is.
    pub(crate) async fn refresh_catalogue(&self, node: &Node) -> bool {
        let asked = Instant::now();
        let refreshing = async {
            // Callers that wait at the same time share one reading, even if it fails.
            let mut readings = self.readings.lock().await;
            if let Some((began, known)) = readings.last
                && began >= asked
            {
                return known;
            }
            let began = Instant::now();
            let refresh = readings.refresh(&node.server, &self.classifier, true);
            let outcome = tokio::time::timeout(node.acquire_timeout(), refresh).await;
            let known = matches!(outcome, Ok(Ok(_)));
            if !known {
                tracing::debug!(node = %node.name(), ?outcome, "the catalogue could not be read");
            }
            // Such a reading is rare, so its connection is not kept, and neither is the fingerprint.
            if let Some(connection) = readings.connection.take() {
                let _ = connection.close().await;
            }
            readings.last = Some((began, known));
            known
        };
        // Rare, so that it takes no room in the future of each statement.
        let refreshing = Box::pin(refreshing);
        tokio::time::timeout(node.acquire_timeout(), refreshing).await.unwrap_or_default()
    }
}

/// When the catalogue is to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// After the usual interval, or when it is requested. The last check took so long.
    After(Duration),
    /// After this time, since no primary answered or the last reading took long.
    In(Duration),
    /// After a growing pause, since the server refused.
    Later,
}

async fn keep_reading(
    monitor: Weak<Monitor>,
    wanted: Arc<Notify>,
    interval: Duration,
    mut next: Next,
) {
    let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
    loop {
        match next {
            Next::In(pause) => tokio::time::sleep(pause).await,
            Next::Later => tokio::time::sleep(backoff.next_pause()).await,
            Next::After(took) => {
                backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
                let pause = (took * CHECK_SHARE).max(interval);
                let least = took * (CHECK_SHARE / 2);
                tokio::time::sleep(least).await;
                let rest = pause.saturating_sub(least);
                let _ = tokio::time::timeout(rest, wanted.notified()).await;
            }
        }
        let Some(monitor) = monitor.upgrade() else { return };
        next = monitor.read_catalogue().await;
    }
}
