//! The public API for hooks: what an app runs on the engine's connections.

use super::Engine;
use crate::node::{ConnectionHook, boxed};

impl Engine {
    /// Sets a hook that runs on each new connection before its first use, as with sqlx's
    /// `PgPoolOptions::after_connect`. It is for what an app sets in every session. It runs again after a
    /// session was reset, because a reset undoes such settings.
    ///
    /// The hook runs in the task of the caller who gets the connection, within `acquire_timeout`, and the
    /// caller gets its error.
    ///
    /// Call this before [`open`](Engine::open): a pool keeps the hooks that were set when it was opened.
    /// Hooks do not run on the connections over which the engine probes its nodes.
    ///
    /// ```no_run
    /// # fn f(config: flautino::EngineConfig) -> Result<(), flautino::ConfigError> {
    /// use sqlx::PgConnection;
    ///
    /// let engine = flautino::Engine::new(config)?.after_connect(async |connection: &mut PgConnection| {
    ///     sqlx::query("SET search_path = app").execute(connection).await.map(drop)
    /// });
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn after_connect(self, hook: impl for<'c> ConnectionHook<'c, ()>) -> Self {
        self.state.shared.hooks.set(|hooks| hooks.after_connect = Some(boxed(hook)));
        self
    }

    /// Sets a hook that runs each time that a connection is checked out, in the caller's task and within
    /// `acquire_timeout`. If it returns `Ok(false)`, the connection is closed and another one is taken. If
    /// it fails, the caller gets its error.
    ///
    /// What it sets in the session stays there for the next user, unless it sets it anew each time. See
    /// [`after_connect`](Engine::after_connect) for when to call this.
    #[must_use]
    pub fn before_acquire(self, hook: impl for<'c> ConnectionHook<'c, bool>) -> Self {
        self.state.shared.hooks.set(|hooks| hooks.before_acquire = Some(boxed(hook)));
        self
    }

    /// Sets a hook that runs each time that a connection is given back. If the session was changed, it is
    /// reset after that. If the hook returns `Ok(false)` or fails, the connection is closed.
    ///
    /// A lease may be dropped anywhere, so the hook runs in a task of the engine's own. The connection
    /// counts as in use until the hook has ended.
    ///
    /// See [`after_connect`](Engine::after_connect) for when to call this.
    #[must_use]
    pub fn after_release(self, hook: impl for<'c> ConnectionHook<'c, bool>) -> Self {
        self.state.shared.hooks.set(|hooks| hooks.after_release = Some(boxed(hook)));
        self
    }
}
