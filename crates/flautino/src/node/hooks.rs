//! Hooks: what an app runs on the engine's connections, as it would with `PgPoolOptions`.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::PgConnection;

/// What an app runs on a connection: an `async fn` or an async closure that takes `&mut PgConnection`.
/// A closure that captures something has to be wrapped in [`hook`].
///
/// See [`Engine::after_connect`](crate::Engine::after_connect).
pub trait ConnectionHook<'c, T>: Send + Sync + 'static {
    /// The future that the hook returns.
    type Future: Future<Output = Result<T, sqlx::Error>> + Send + 'c;

    /// Runs the hook on a connection.
    fn run(&self, connection: &'c mut PgConnection) -> Self::Future;
}

impl<'c, T, F, Fut> ConnectionHook<'c, T> for F
where
    F: Fn(&'c mut PgConnection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, sqlx::Error>> + Send + 'c,
{
    type Future = Fut;

    fn run(&self, connection: &'c mut PgConnection) -> Fut {
        self(connection)
    }
}

/// Makes a [`ConnectionHook`] of a closure that returns a boxed future, as sqlx's `PgPoolOptions` takes
/// it. An app needs this for a closure that captures something: an async closure's future would borrow
/// the captured value from the closure, which a hook's future must not do.
///
/// It returns the closure unchanged. Its signature is what tells the compiler that the closure works for
/// every lifetime of the connection.
///
/// ```no_run
/// # fn f(engine: flautino::Engine) -> flautino::Engine {
/// use std::sync::Arc;
///
/// let tenant: Arc<str> = "42".into();
/// engine.after_connect(flautino::hook(move |connection| {
///     let tenant = Arc::clone(&tenant);
///     Box::pin(async move {
///         let set = sqlx::query("SELECT set_config('app.tenant', $1, false)").bind(&*tenant);
///         set.execute(connection).await.map(drop)
///     })
/// }))
/// # }
/// ```
pub fn hook<T, F>(hook: F) -> F
where
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Send
        + Sync
        + 'static,
{
    hook
}

pub(crate) type Hook<T> = Arc<
    dyn for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + Sync,
>;

/// The hook in a form that [`Hooks`] can store.
pub(crate) fn boxed<T: 'static>(hook: impl for<'c> ConnectionHook<'c, T>) -> Hook<T> {
    Arc::new(move |connection: &mut PgConnection| {
        Box::pin(hook.run(connection)) as BoxFuture<'_, _>
    })
}

/// The hooks of a pool; see [`Engine::after_connect`](crate::Engine::after_connect),
/// [`before_acquire`](crate::Engine::before_acquire) and
/// [`after_release`](crate::Engine::after_release).
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) after_connect: Option<Hook<()>>,
    pub(crate) before_acquire: Option<Hook<bool>>,
    pub(crate) after_release: Option<Hook<bool>>,
}

/// The hooks of an engine, which the app may set until the engine is opened.
#[derive(Default)]
pub(crate) struct HookCell(Mutex<Hooks>);

impl HookCell {
    pub(crate) fn set(&self, set: impl FnOnce(&mut Hooks)) {
        set(&mut self.0.lock());
    }

    pub(crate) fn get(&self) -> Hooks {
        self.0.lock().clone()
    }
}

impl Hooks {
    /// Whether a checkout may have to run a hook.
    pub(crate) fn run_at_checkout(&self) -> bool {
        self.after_connect.is_some() || self.before_acquire.is_some()
    }

    /// Runs in a session that is new or was reset.
    pub(super) async fn run_after_connect(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        match &self.after_connect {
            Some(hook) => hook(connection).await,
            None => Ok(()),
        }
    }

    /// Runs at each checkout. Returns `Ok(false)` if the app refuses the connection.
    pub(super) async fn run_before_acquire(
        &self,
        connection: &mut PgConnection,
    ) -> Result<bool, sqlx::Error> {
        match &self.before_acquire {
            Some(hook) => hook(connection).await,
            None => Ok(true),
        }
    }

    /// Runs when a connection is given back. Returns `Ok(false)` if the app wants it closed.
    pub(super) async fn run_after_release(
        &self,
        connection: &mut PgConnection,
    ) -> Result<bool, sqlx::Error> {
        match &self.after_release {
            Some(hook) => hook(connection).await,
            None => Ok(true),
        }
    }

    /// Runs `after_connect` and `before_acquire`, for a connection that is used right after it was made.
    pub(crate) async fn run_on_first_checkout(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        self.run_after_connect(connection).await?;
        if self.run_before_acquire(connection).await? {
            return Ok(());
        }
        let refused = "`before_acquire` refused a new connection";
        Err(sqlx::Error::Protocol(refused.to_owned()))
    }
}
