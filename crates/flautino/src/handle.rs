//! What a request queries through: an engine, and the choices of one session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;
use serde::Serialize;
use sqlx::{Acquire, Postgres};

use crate::engine::EngineInner;
use crate::error::UnknownNode;
use crate::executor::executor_through_lease;
use crate::lease::Lease;
use crate::node::Node;
use crate::transaction::{Transaction, TransactionOptions};

/// How many statements a session remembers, at the most.
const MOST_TIMINGS: usize = 8;

/// What queries go through; cheap to clone, and safe to hand to a task.
///
/// `&Handle` and `Handle` are sqlx executors, so `query`, `query_as`, `query!`, `QueryBuilder`,
/// streams and `migrate!` take them. Each statement goes to the main node, unless
/// [`node`](Handle::node) named another.
///
/// ```no_run
/// # async fn f(engine: flautino::Engine) -> Result<(), Box<dyn std::error::Error>> {
/// let db = engine.handle();
/// let (one,): (i32,) = sqlx::query_as("SELECT 1").fetch_one(&db).await?;
/// let replica = db.node("read_replica_1")?;
/// sqlx::query("SELECT 1").execute(&replica).await?;
/// # Ok(()) }
/// ```
///
/// # Cancellation
///
/// A query that is dropped before its result was read to the end closes its connection. The
/// server is told to end the statement, or notices within `client_check_interval`.
#[derive(Clone)]
pub struct Handle {
    engine: Arc<EngineInner>,
    node: Arc<Node>,
    reason: Reason,
    session: Option<Arc<Session>>,
}

/// Why a statement went to the node it went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Everything goes to the main node unless a node is named.
    MainNode,
    /// The handle names its node.
    NamedNode,
}

impl Reason {
    /// As in status and `Server-Timing`: `main_node`, `named_node`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MainNode => "main_node",
            Self::NamedNode => "named_node",
        }
    }
}

/// One statement of a recorded session.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Timing {
    /// The node that ran it.
    pub node: Arc<str>,
    /// Why that node.
    pub reason: Reason,
    /// From asking for a connection to the end of the result.
    pub elapsed: Duration,
}

/// What the handles of one request share.
#[derive(Debug, Default)]
struct Session {
    timings: Mutex<Vec<Timing>>,
}

impl Handle {
    pub(crate) fn new(engine: Arc<EngineInner>) -> Self {
        let node = Arc::clone(engine.main());
        Self { engine, node, reason: Reason::MainNode, session: None }
    }

    /// A handle whose every statement goes to the named node.
    ///
    /// # Errors
    ///
    /// [`UnknownNode`], which lists the nodes there are.
    pub fn node(&self, name: &str) -> Result<Self, UnknownNode> {
        let node = Arc::clone(self.engine.node(name)?);
        Ok(Self { node, reason: Reason::NamedNode, ..self.clone() })
    }

    /// The name of the node that this handle's next statement goes to.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node.name
    }

    /// Checks a connection out, for what needs one session: `COPY`, advisory locks, settings.
    ///
    /// # Errors
    ///
    /// [`Error::AcquireTimeout`](crate::Error::AcquireTimeout) and
    /// [`Error::Closed`](crate::Error::Closed), or what the server says to a new connection.
    ///
    /// # Cancellation
    ///
    /// Safe: a connection under way is kept for the next checkout.
    pub fn acquire(&self) -> impl Future<Output = Result<Lease, sqlx::Error>> + Send + use<> {
        let this = self.clone();
        async move { this.checkout().await }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Handle::acquire), or what the server says to `BEGIN`.
    ///
    /// # Cancellation
    ///
    /// Safe: no open transaction is left on any connection.
    pub fn begin(&self) -> impl Future<Output = Result<Transaction, sqlx::Error>> + Send + use<> {
        self.begin_with(TransactionOptions::default())
    }

    /// Begins a transaction with the given isolation, access and deferral.
    ///
    /// # Errors
    ///
    /// As [`begin`](Handle::begin).
    ///
    /// # Cancellation
    ///
    /// Safe, as [`begin`](Handle::begin).
    pub fn begin_with(
        &self,
        options: TransactionOptions,
    ) -> impl Future<Output = Result<Transaction, sqlx::Error>> + Send + use<> {
        let this = self.clone();
        async move { Transaction::begin(this.checkout().await?, &options).await }
    }

    /// Runs a closure in a transaction: commits when it answers `Ok`, rolls back when it answers
    /// `Err` or panics.
    ///
    /// ```no_run
    /// # async fn f(db: flautino::Handle) -> Result<(), sqlx::Error> {
    /// let amount = 7;
    /// db.transaction(async move |tx| {
    ///     let update = sqlx::query("UPDATE accounts SET balance = balance - $1");
    ///     update.bind(amount).execute(&mut *tx).await?;
    ///     sqlx::query("INSERT INTO journal DEFAULT VALUES").execute(&mut *tx).await
    /// })
    /// .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Write `async move`: where the closure only borrows what it uses, the compiler cannot see
    /// that the whole may go to another thread, as axum's handlers must.
    ///
    /// # Errors
    ///
    /// What the closure answers, or what `begin` and `commit` say.
    ///
    /// # Cancellation
    ///
    /// Rolls back, unless `COMMIT` was already sent: then the server decides.
    pub async fn transaction<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: AsyncFnMut(&mut Transaction) -> Result<T, E>,
        E: From<sqlx::Error>,
    {
        self.transaction_with(TransactionOptions::default(), work).await
    }

    /// As [`transaction`](Handle::transaction), with options. With
    /// [`retries`](TransactionOptions::retries) above 0 the whole closure runs again after a
    /// serialization failure (40001) or a deadlock (40P01), so it must not have effects outside
    /// the transaction.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Handle::transaction), from the last attempt.
    ///
    /// # Cancellation
    ///
    /// As [`transaction`](Handle::transaction).
    pub async fn transaction_with<T, E, F>(
        &self,
        options: TransactionOptions,
        mut work: F,
    ) -> Result<T, E>
    where
        F: AsyncFnMut(&mut Transaction) -> Result<T, E>,
        E: From<sqlx::Error>,
    {
        let mut attempt = 0;
        loop {
            let mut transaction = self.begin_with(options.clone()).await?;
            let result = work(&mut transaction).await;
            let (result, retryable) = transaction.conclude(result).await;
            if result.is_ok() || !retryable || attempt >= options.retries {
                return result;
            }
            attempt += 1;
            tokio::time::sleep(TransactionOptions::backoff(attempt)).await;
        }
    }

    /// Starts to remember where the session's statements go and how long they take: the first
    /// eight, for this handle and what is derived from it.
    #[must_use]
    pub fn recorded(mut self) -> Self {
        self.session = Some(Arc::default());
        self
    }

    /// What [`recorded`](Handle::recorded) remembers, in the order in which the statements ended.
    #[must_use]
    pub fn timings(&self) -> Vec<Timing> {
        let Some(session) = &self.session else {
            return Vec::new();
        };
        session.timings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn checkout(self) -> Result<Lease, sqlx::Error> {
        let started = Instant::now();
        let mut lease = Lease::checkout(&self.node).await?;
        lease.meter = Some(Meter {
            engine: self.engine,
            session: self.session,
            reason: self.reason,
            started: Some(started),
        });
        Ok(lease)
    }
}

executor_through_lease!(Handle, |handle, statement| {
    match statement.refuse_lone_control() {
        Ok(()) => handle.checkout().await,
        Err(err) => Err(err.into()),
    }
});

executor_through_lease!(&'c Handle, |handle, statement| {
    match statement.refuse_lone_control() {
        Ok(()) => handle.clone().checkout().await,
        Err(err) => Err(err.into()),
    }
});

/// For what is generic over sqlx, such as `migrate!`.
///
/// `begin` through this trait answers sqlx's own transaction, whose `commit` reports success
/// even where the server had aborted it; [`Handle::begin`], which a plain `db.begin()` calls,
/// does not.
impl Acquire<'static> for &Handle {
    type Database = Postgres;
    type Connection = Lease;

    fn acquire(self) -> BoxFuture<'static, Result<Lease, sqlx::Error>> {
        Box::pin(Handle::acquire(self))
    }

    fn begin(
        self,
    ) -> BoxFuture<'static, Result<sqlx::Transaction<'static, Postgres>, sqlx::Error>> {
        let this = self.clone();
        Box::pin(async move {
            let pool = this.node.pool_for_sqlx()?;
            // In a task of its own, since sqlx's `begin` leaves the transaction open on the
            // connection when it is cancelled half-way.
            let begun = this.engine.tasks().spawn(async move { pool.begin().await });
            begun.await.map_err(|err| sqlx::Error::Io(std::io::Error::other(err)))?
        })
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("node", &self.node.name)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Counts and times the statements of one lease.
pub(crate) struct Meter {
    engine: Arc<EngineInner>,
    session: Option<Arc<Session>>,
    reason: Reason,
    /// For the first statement, when its connection was asked for.
    started: Option<Instant>,
}

impl Meter {
    pub(crate) fn statement_starts(&mut self) {
        self.engine.count(self.reason);
        self.started.get_or_insert_with(Instant::now);
    }

    pub(crate) fn statement_ended(&mut self, node: &Arc<str>) {
        let started = self.started.take();
        let (Some(session), Some(started)) = (&self.session, started) else {
            return;
        };
        let mut timings = session.timings.lock().unwrap_or_else(PoisonError::into_inner);
        if timings.len() < MOST_TIMINGS {
            let timing =
                Timing { node: Arc::clone(node), reason: self.reason, elapsed: started.elapsed() };
            timings.push(timing);
        }
    }
}
