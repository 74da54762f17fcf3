//! What a request queries through: an engine, and the choices of one session.

use std::sync::Arc;
use std::time::Instant;

use futures_core::future::BoxFuture;
use sqlx::{Acquire, Postgres};

use crate::dispatch::executor::RoutedExecutor;
use crate::dispatch::{Cluster, Dispatch, Failure, Phase};
use crate::error::UnknownNode;
use crate::lease::Lease;
use crate::lease::executor::executor_through;
use crate::node::Node;
use crate::router::{Access, Consistency, Target};
use crate::session::{Session, Timing, Token, TokenState};
use crate::sql::Classifier;
use crate::transaction::{IsolationLevel, Transaction, TransactionOptions};

/// What queries go through; cheap to clone, and safe to hand to a task.
///
/// `&Handle` and `Handle` are sqlx executors, so `query`, `query_as`, `query!`, `QueryBuilder`,
/// streams and `migrate!` take them. A statement that only reads goes to a replica that is fresh
/// enough for this session, every other one to the primary. In doubt it is the primary.
///
/// A handle from [`Engine::handle`](crate::Engine::handle) begins a session; its clones, and the
/// handles made from it, share it. After a write the session's reads see that write, on whichever
/// node; [`token`](Handle::token) and [`observe`](Handle::observe) carry that over to a job, a
/// socket or another service.
///
/// ```no_run
/// # async fn f(engine: flautino::Engine) -> Result<(), Box<dyn std::error::Error>> {
/// let db = engine.handle();
/// sqlx::query("INSERT INTO notes (title) VALUES ('a')").execute(&db).await?; // the primary
/// let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&db).await?;
/// let replica = db.node("read_replica_1")?;
/// sqlx::query("SELECT 1").execute(&replica).await?;
/// # Ok(()) }
/// ```
///
/// # Cancellation
///
/// A query that is dropped before its result was read to the end is cancelled at the server, in the
/// background, and its connection is reset. Where the server cannot be told, it notices within
/// `client_check_interval`.
#[derive(Clone)]
pub struct Handle {
    dispatch: Dispatch,
}

impl Handle {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { dispatch: Dispatch::new(cluster) }
    }

    fn session(&self) -> &Arc<Session> {
        &self.dispatch.session
    }

    fn with_target(&self, target: Target<Arc<Node>>) -> Self {
        Self { dispatch: Dispatch { target, ..self.dispatch.clone() } }
    }

    /// A handle whose every statement goes to the named node.
    ///
    /// # Errors
    ///
    /// [`UnknownNode`], which lists the nodes there are.
    pub fn node(&self, name: &str) -> Result<Self, UnknownNode> {
        Ok(self.with_target(Target::Node(self.dispatch.monitor().node(name)?)))
    }

    /// A handle whose every statement goes to the primary.
    #[must_use]
    pub fn primary(&self) -> Self {
        self.with_target(Target::Primary)
    }

    /// A handle whose every statement goes to a replica, also what would pass for a write: a
    /// function that the router does not know, a view of `pg_stat_…`.
    ///
    /// The session's consistency holds all the same. Where no replica is fresh enough the primary
    /// runs the statement; what a replica refuses is an error, and is not sent again.
    #[must_use]
    pub fn replica(&self) -> Self {
        self.with_target(Target::Replica)
    }

    /// A handle whose reads are as fresh as this.
    ///
    /// ```no_run
    /// # async fn f(db: flautino::Handle) -> Result<(), sqlx::Error> {
    /// use flautino::Consistency;
    ///
    /// let report = db.with_consistency(Consistency::Eventual); // own writes need not show
    /// sqlx::query("SELECT count(*) FROM notes").execute(&report).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_consistency(&self, consistency: Consistency) -> Self {
        Self { dispatch: Dispatch { consistency: Some(consistency), ..self.dispatch.clone() } }
    }

    /// The name of the node that [`node`](Handle::node) chose, if it did.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        match &self.dispatch.target {
            Target::Node(node) => Some(node.name()),
            Target::Auto | Target::Primary | Target::Replica => None,
        }
    }

    /// The name of the node that ran the session's latest statement.
    #[must_use]
    pub fn served_by(&self) -> Option<Arc<str>> {
        self.session().served_by()
    }

    /// What the session's next request must bring along to see what this one wrote, and, at the
    /// level [`Session`](Consistency::Session), what it saw. `None` where there is nothing to
    /// carry: it neither wrote nor brought a token along, or the engine has one node only.
    ///
    /// After a write this asks the primary for its position, in one statement that all who ask at
    /// the time share; without a write it costs nothing. Where the position cannot be had in time,
    /// the token says "the primary, for a while".
    ///
    /// # Cancellation
    ///
    /// Cancel safe: a question to the primary goes on for others.
    pub async fn token(&self) -> Option<Token> {
        let (monitor, session) = (self.dispatch.monitor(), self.session());
        let window = monitor.config.token_window;
        if !monitor.routes() {
            // The engine closes, and nobody can be asked any more.
            return session.owes_token().then(|| Token::primary_for(window));
        }
        let state = monitor.state().clone();
        let asked = session.token(&state.snapshot, Instant::now(), window);
        let position = match asked {
            TokenState::None => return None,
            TokenState::Ready(token) => return Some(token),
            TokenState::AskPrimary(event) => monitor.primary_position_after(event).await,
            TokenState::AskNode(number, event) => {
                match monitor.position_after(&state.nodes[number], event).await {
                    // The primary is further than any of its replicas.
                    None => monitor.primary_position_after(event).await,
                    position => position,
                }
            }
        };
        Some(match position {
            Some(position) => session.token_at(asked, position, window),
            None => Token::primary_for(window),
        })
    }

    /// Whether [`token`](Handle::token) has something new to say: the session wrote since it was
    /// last asked, or brought a token that cannot be used, or read at the level
    /// [`Session`](Consistency::Session).
    #[must_use]
    pub fn owes_token(&self) -> bool {
        self.dispatch.monitor().has_replicas() && self.session().owes_token()
    }

    /// Goes on where another session stopped: from now on this one sees what that one wrote, and
    /// its own token covers that. Of several tokens the furthest counts.
    pub fn observe(&self, token: &Token) {
        self.resume(token);
        self.session().owe_token();
    }

    /// As [`observe`](Handle::observe), for a token that the client brought itself, and so need not
    /// be given.
    pub fn resume(&self, token: &Token) {
        self.session().observe(*token, self.dispatch.monitor().config.token_window);
    }

    /// A token was there and could not be read: until the session has a new one, it reads from the
    /// primary.
    pub fn observe_unreadable(&self) {
        self.session().observe_unreadable();
    }

    /// Checks a connection out, for what needs one session: `COPY`, advisory locks, settings. It is
    /// one of the primary, unless the handle names a node or asks for a replica.
    ///
    /// # Errors
    ///
    /// [`Error::AcquireTimeout`](crate::Error::AcquireTimeout) and
    /// [`Error::Closed`](crate::Error::Closed), or what the server says to a new connection.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: a connection under way is kept for the next checkout.
    pub fn acquire(&self) -> impl Future<Output = Result<Lease, sqlx::Error>> + Send + use<> {
        let dispatch = self.dispatch.clone();
        let keep = |lease| std::future::ready(Ok(lease));
        async move { dispatch.run(Access::Write, None, keep).await }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Handle::acquire), or what the server says to `BEGIN`.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: no open transaction is left on any connection.
    pub fn begin(&self) -> impl Future<Output = Result<Transaction, sqlx::Error>> + Send + use<> {
        self.begin_with(TransactionOptions::default())
    }

    /// Begins a transaction with the given isolation, access and deferral. One that is read-only
    /// and not serializable is a read, and may run on a replica; what the session must see is
    /// looked at before `BEGIN`.
    ///
    /// # Errors
    ///
    /// As [`begin`](Handle::begin).
    ///
    /// # Cancellation
    ///
    /// Cancel safe, as [`begin`](Handle::begin).
    pub fn begin_with(
        &self,
        options: TransactionOptions,
    ) -> impl Future<Output = Result<Transaction, sqlx::Error>> + Send + use<> {
        let dispatch = self.dispatch.clone();
        async move {
            // A standby runs no serializable transactions.
            let reads =
                options.read_only && options.isolation != Some(IsolationLevel::Serializable);
            let access = if reads { Access::Read } else { Access::Write };
            let begin = |lease| {
                let options = &options;
                async move {
                    let begun = Transaction::begin(lease, options).await;
                    begun.map_err(|error| Failure { error, phase: Phase::Beginning })
                }
            };
            dispatch.run(access, None, begin).await
        }
    }

    /// Runs a closure in a transaction: commits when it returns `Ok`, rolls back when it returns
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
    /// What the closure returns, or what `begin` and `commit` say.
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
    /// serialization failure (40001), a deadlock (40P01), or a connection that was lost before
    /// `COMMIT` was sent, so it must not have effects outside the transaction.
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
    /// eight.
    #[must_use]
    pub fn recorded(self) -> Self {
        self.session().record();
        self
    }

    /// What [`recorded`](Handle::recorded) remembers, in the order in which the statements ended.
    #[must_use]
    pub fn timings(&self) -> Vec<Timing> {
        self.session().timings()
    }

    fn classifier(&self) -> &Classifier {
        &self.dispatch.cluster.classifier
    }
}

executor_through!(Handle, |handle, statement| {
    match statement.refuse_lone_control() {
        Ok(()) => Ok(RoutedExecutor::new(handle.dispatch)),
        Err(err) => Err(err.into()),
    }
});

executor_through!(&'c Handle, |handle, statement| {
    match statement.refuse_lone_control() {
        Ok(()) => Ok(RoutedExecutor::new(handle.dispatch.clone())),
        Err(err) => Err(err.into()),
    }
});

/// For what is generic over sqlx, such as `migrate!`.
///
/// `begin` through this trait returns sqlx's own transaction, whose `commit` reports success
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
            let node = this.dispatch.writer();
            let pool = node.pool()?;
            // What happens in it, and when it ends, is not seen.
            this.session().lose_track();
            match pool {
                Some(pool) => pool.begin().await,
                // Cancelled half-way, its pool goes with it.
                None => {
                    let pool = node.single_sqlx_pool();
                    let begun = tokio::time::timeout(node.acquire_timeout(), pool.begin()).await;
                    begun.unwrap_or(Err(sqlx::Error::PoolTimedOut))
                }
            }
        })
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("target", &self.dispatch.target)
            .field("consistency", &self.dispatch.level())
            .finish_non_exhaustive()
    }
}
