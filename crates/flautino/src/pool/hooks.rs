//! What an app runs on the engine's connections: as it does on `PgPoolOptions`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_core::future::BoxFuture;
use sqlx::PgConnection;

use super::NodePool;
use super::entry::{Entry, PooledConnection};
use crate::error::AcquireStep;

/// A function of the app's own over a connection.
pub(crate) type Hook<T> = Arc<
    dyn for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + Sync,
>;

/// See [`Engine::after_connect`](crate::Engine::after_connect) and those beside it.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) after_connect: Option<Hook<()>>,
    pub(crate) before_acquire: Option<Hook<bool>>,
    pub(crate) after_release: Option<Hook<bool>>,
}

/// The hooks of an engine, until it is opened.
#[derive(Default)]
pub(crate) struct HookCell(Mutex<Hooks>);

impl HookCell {
    pub(crate) fn set(&self, set: impl FnOnce(&mut Hooks)) {
        set(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn get(&self) -> Hooks {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Hooks {
    /// Whether something runs each time that a connection is lent.
    pub(super) fn run_at_checkout(&self) -> bool {
        self.after_connect.is_some() || self.before_acquire.is_some()
    }

    /// Runs what there is to run in a session that is new, or was reset.
    pub(super) async fn renewed(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        match &self.after_connect {
            Some(hook) => hook(connection).await,
            None => Ok(()),
        }
    }

    /// Runs what there is to run before a connection is lent. `Ok(false)` where another is wanted.
    pub(crate) async fn welcome(
        &self,
        connection: &mut PgConnection,
        is_new: bool,
    ) -> Result<bool, sqlx::Error> {
        if is_new {
            self.renewed(connection).await?;
        }
        match &self.before_acquire {
            Some(hook) => hook(connection).await,
            None => Ok(true),
        }
    }
}

impl NodePool {
    /// Runs the hooks before a connection is lent, in the asker's task.
    pub(super) async fn welcome(
        &self,
        connection: &mut PooledConnection,
        started: Instant,
    ) -> Result<bool, sqlx::Error> {
        if !self.hooks.run_at_checkout() {
            return Ok(true);
        }
        let Entry { link, is_new, .. } = connection.entry();
        let welcoming = self.hooks.welcome(link, *is_new);
        match tokio::time::timeout(self.left(started), welcoming).await {
            Ok(welcome) => {
                *is_new = welcome.is_err();
                welcome
            }
            Err(_) => Err(self.timed_out(started, AcquireStep::Hook)),
        }
    }

    /// Runs the hook on a connection that comes back. `Ok(false)` where it is to be closed.
    pub(super) async fn released(&self, entry: &mut Entry) -> Result<bool, sqlx::Error> {
        match &self.hooks.after_release {
            Some(hook) => hook(&mut entry.link).await,
            None => Ok(true),
        }
    }
}
