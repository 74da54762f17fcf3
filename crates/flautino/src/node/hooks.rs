//! What an app runs on the engine's connections: as it does on `PgPoolOptions`.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::PgConnection;

/// What runs on a connection by the app's own will: an `async fn` or an async closure over
/// `&mut PgConnection`. One that captures something has to be written as [`hook`] says.
///
/// See [`Engine::after_connect`](crate::Engine::after_connect).
pub trait ConnectionHook<'c, T>: Send + Sync + 'static {
    /// What it returns.
    type Future: Future<Output = Result<T, sqlx::Error>> + Send + 'c;

    /// Begins to run.
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

/// A closure as a [`ConnectionHook`], in the form that sqlx's `PgPoolOptions` takes. It is returned as
/// it is: the compiler cannot tell what such a closure borrows without being told so here. An async
/// closure that captures something would borrow from itself, which a hook cannot.
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

/// The hook in a form that can be kept.
pub(crate) fn boxed<T: 'static>(hook: impl for<'c> ConnectionHook<'c, T>) -> Hook<T> {
    Arc::new(move |connection: &mut PgConnection| {
        Box::pin(hook.run(connection)) as BoxFuture<'_, _>
    })
}

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
        set(&mut self.0.lock());
    }

    pub(crate) fn get(&self) -> Hooks {
        self.0.lock().clone()
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

    /// Runs what there is to run each time that a connection is lent. `Ok(false)` where another is
    /// wanted.
    pub(super) async fn lent(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        match &self.before_acquire {
            Some(hook) => hook(connection).await,
            None => Ok(true),
        }
    }

    /// Runs what there is to run on a connection that comes back. `Ok(false)` where it is to be closed.
    pub(super) async fn released(
        &self,
        connection: &mut PgConnection,
    ) -> Result<bool, sqlx::Error> {
        match &self.after_release {
            Some(hook) => hook(connection).await,
            None => Ok(true),
        }
    }

    /// The first two, for a connection that is lent right after it was made.
    pub(crate) async fn first_lent(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        self.renewed(connection).await?;
        if self.lent(connection).await? {
            return Ok(());
        }
        let refused = "`before_acquire` refused a connection that was made just now";
        Err(sqlx::Error::Protocol(refused.to_owned()))
    }
}
