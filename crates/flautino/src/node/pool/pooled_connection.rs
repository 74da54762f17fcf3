//! A checked-out connection, and the ways in which it comes back.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use sqlx::PgConnection;
use tokio::sync::OwnedSemaphorePermit;

use super::epoch::{EndListener, Epoch};
use super::managed::ManagedConnection;
use super::recovery::Recovery;
use super::slot::Slot;
use super::{CLOSE_TIMEOUT, NodePool};
use crate::error::timed_out;
use crate::node::backend::Backend;
use crate::node::settings::Settings;

/// A checked-out connection, with its slot. When it is dropped, it is recovered, because a statement
/// may still run on it. A caller who knows that none does calls one of the methods instead.
pub(crate) struct PooledConnection(Option<(Box<ManagedConnection>, Slot)>);

/// A connection, with what can end a statement on it.
pub(crate) struct Parts<'a> {
    pub(crate) connection: &'a mut PgConnection,
    pub(crate) epoch: &'a Epoch,
    pub(crate) end: &'a EndListener,
    pub(crate) pool: &'a Arc<NodePool>,
    /// The server process behind the connection, if it is known.
    pub(crate) backend: Option<Backend>,
}

const HAS_CONNECTION: &str = "only methods that consume the guard take its connection";

impl PooledConnection {
    pub(super) fn new(managed: Box<ManagedConnection>, slot: Slot) -> Self {
        Self(Some((managed, slot)))
    }

    fn inner(&self) -> &(Box<ManagedConnection>, Slot) {
        self.0.as_ref().unwrap_or_else(|| unreachable!("{HAS_CONNECTION}"))
    }

    fn inner_mut(&mut self) -> &mut (Box<ManagedConnection>, Slot) {
        self.0.as_mut().unwrap_or_else(|| unreachable!("{HAS_CONNECTION}"))
    }

    fn into_inner(mut self) -> (Box<ManagedConnection>, Slot) {
        self.0.take().unwrap_or_else(|| unreachable!("{HAS_CONNECTION}"))
    }

    pub(super) fn managed(&mut self) -> &mut ManagedConnection {
        &mut self.inner_mut().0
    }

    pub(super) fn epoch(&self) -> &Epoch {
        &self.inner().0.epoch
    }

    pub(crate) fn pool(&self) -> &Arc<NodePool> {
        &self.inner().1.pool
    }

    /// The caller gets it now.
    pub(super) fn lend(&mut self, now: Instant) {
        self.inner_mut().1.lend(now);
    }

    /// Keeps a permit of the budget for as long as the slot.
    pub(crate) fn hold(&mut self, budget: Option<OwnedSemaphorePermit>) {
        self.inner_mut().1.budget = budget;
    }

    pub(crate) fn parts(&mut self) -> Parts<'_> {
        let (managed, slot) = self.inner_mut();
        let ManagedConnection { connection, epoch, end, registration, .. } = &mut **managed;
        Parts { connection, epoch, end, pool: &slot.pool, backend: registration.backend }
    }

    /// Whether the session may know which values of sequences it got since it was last reset.
    pub(crate) fn has_advanced(&self) -> bool {
        self.inner().0.has_advanced
    }

    pub(crate) fn note_advanced(&mut self) {
        self.inner_mut().0.has_advanced = true;
    }

    /// The settings of a handle that the session has in force.
    pub(crate) fn settings(&self) -> Option<&Arc<Settings>> {
        self.inner().0.settings.as_ref()
    }

    pub(crate) fn note_settings(&mut self, settings: Option<Arc<Settings>>) {
        self.inner_mut().0.settings = settings;
    }

    /// It is not checked out again, because its session keeps what no reset takes away.
    pub(crate) fn expire(&mut self) {
        self.inner_mut().0.expires = Some(Instant::now());
    }

    /// Gives it back as it is: nothing runs on it, and its session is unchanged, but for the settings of a handle.
    pub(crate) fn release(self) {
        let (managed, slot) = self.into_inner();
        let hooks = &slot.pool.hooks;
        if managed.settings.is_some() && (hooks.run_at_checkout() || hooks.after_release.is_some())
        {
            // The app's hooks expect a session as they left it.
            NodePool::reset(managed, slot);
        } else if hooks.after_release.is_some() {
            NodePool::start_recovery(managed, slot, Recovery::Hook);
        } else {
            slot.give_back(managed);
        }
    }

    /// Gives it back after its session has been reset: nothing runs on it, but its session may have
    /// changed.
    pub(crate) fn reset(self) {
        let (managed, slot) = self.into_inner();
        NodePool::reset(managed, slot);
    }

    /// Closes the socket without telling the server, which notices by itself.
    pub(crate) fn discard(self) {
        let (managed, slot) = self.into_inner();
        slot.pool.discard(*managed);
    }

    /// Closes it and tells the server so. Its place is free when it is closed.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        let (managed, slot) = self.into_inner();
        let ManagedConnection { connection, registration, .. } = *managed;
        let closing = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
        drop((registration, slot));
        closing
            .unwrap_or_else(|_| Err(timed_out("the server was not told that a connection closes")))
    }

    /// Takes it out of the pool for good, which may make another one in its place.
    pub(crate) fn detach(self) -> PgConnection {
        let (managed, slot) = self.into_inner();
        slot.pool.detach(*managed)
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some((managed, slot)) = self.0.take() {
            NodePool::recover(managed, slot);
        }
    }
}

impl Deref for PooledConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner().0.connection
    }
}
