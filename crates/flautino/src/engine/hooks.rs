//! What an app runs on the engine's connections.

use super::Engine;
use crate::node::{ConnectionHook, boxed};

impl Engine {
    /// From now on this runs on each new connection of each node, before anyone uses it, as with sqlx's
    /// `PgPoolOptions::after_connect`: what an app sets in every session of its own. It runs again after
    /// a session was reset, since that takes such settings away; and in the task of whoever asked for
    /// the connection, within `acquire_timeout`. Its error is that one's error.
    ///
    /// To be called before [`open`](Engine::open): a pool keeps to the hooks that there were when it was
    /// opened. The monitor's own connections are left alone.
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

    /// From now on this runs each time that a connection is lent, in the task of the one who asked for
    /// it, within `acquire_timeout`. `Ok(false)` has the connection closed, and another one taken; its
    /// error is the asker's error.
    ///
    /// What it sets in the session stays there for the next one, unless it sets it anew each time; see
    /// [`after_connect`](Engine::after_connect) for when to call it.
    #[must_use]
    pub fn before_acquire(self, hook: impl for<'c> ConnectionHook<'c, bool>) -> Self {
        self.state.shared.hooks.set(|hooks| hooks.before_acquire = Some(boxed(hook)));
        self
    }

    /// From now on this runs each time that a connection comes back, before its session is reset where
    /// it was changed. `Ok(false)`, or an error, has the connection closed. Since a lease may be dropped
    /// anywhere, it runs in a task of the engine's own, and the connection's place is taken so long.
    ///
    /// See [`after_connect`](Engine::after_connect) for when to call it.
    #[must_use]
    pub fn after_release(self, hook: impl for<'c> ConnectionHook<'c, bool>) -> Self {
        self.state.shared.hooks.set(|hooks| hooks.after_release = Some(boxed(hook)));
        self
    }
}
