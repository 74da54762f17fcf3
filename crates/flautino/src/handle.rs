//! [`Handle`]: what a request queries through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;
use sqlx::{Acquire, Postgres};

use crate::dispatch::executor::RoutedExecutor;
use crate::dispatch::{ContextOwner, Dispatch, Failure, Phase};
use crate::error::UnknownNode;
use crate::lease::Lease;
use crate::lease::executor::executor_through;
use crate::metrics::unreadable_token;
use crate::node::{Demand, Node};
use crate::router::{Access, Consistency, Target};
use crate::session::{Session, Timing, Token, TokenState};
use crate::sql::{Classifier, without_values};
use crate::transaction::{IsolationLevel, Transaction, TransactionOptions};

/// What queries go through; cheap to clone, and safe to hand to a task.
///
/// `&Handle` is an sqlx executor, as `&PgPool` is: `query`, `query_as`, `query!`, `QueryBuilder` and
/// `migrate!` take it, and so does `db.execute("…")` with `sqlx::Executor` imported. The futures and
/// streams do not borrow the handle. A statement that only reads goes to a replica that is fresh
/// enough for this session, every other one to the primary. In doubt, it is the primary.
///
/// A handle from [`Engine::handle`](crate::Engine::handle) begins a session; its clones, and the
/// handles made from it, share it. After a write the session's reads see that write, whichever node
/// serves them; [`token`](Handle::token) and [`observe`](Handle::observe) extend this to a job, a
/// socket or another service.
///
/// ```no_run
/// # async fn f(engine: flautino::Engine) -> Result<(), Box<dyn std::error::Error>> {
/// let db = engine.handle();
/// sqlx::query("INSERT INTO notes (title) VALUES ('a')").execute(&db).await?; // the primary
/// let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&db).await?;
/// let replica = db.node("read_replica_1")?;
/// sqlx::query("SELECT 1").execute(&replica).await?;
///
/// use sqlx::Executor;
/// db.execute("CREATE INDEX ON notes (title)").await?;
/// # Ok(()) }
/// ```
///
/// The session of a statement is reset after it: `SET` or a temporary table is gone then, and what would
/// say that it is held, such as an advisory lock, is refused ([`Error`](crate::Error::NeedsLease)).
///
/// # Cancellation
///
/// A query that is dropped before its result was read to the end is cancelled at the server, in the
/// background, and its connection is reset. If the request to cancel cannot be delivered, the
/// server notices the closed connection within `client_check_interval`.
#[derive(Clone)]
pub struct Handle {
    dispatch: Dispatch,
}

impl Handle {
    /// A handle of this engine that begins a session.
    pub(crate) fn new(engine: Arc<dyn ContextOwner>) -> Self {
        Self { dispatch: Dispatch::new(engine) }
    }

    fn session(&self) -> &Arc<Session> {
        &self.dispatch.session
    }

    fn with_target(&self, target: Target<Arc<Node>>) -> Self {
        Self { dispatch: Dispatch { target, ..self.dispatch.clone() } }
    }

    /// Returns a handle that sends every statement to the named node.
    ///
    /// # Errors
    ///
    /// [`UnknownNode`], which lists the engine's nodes.
    pub fn node(&self, name: &str) -> Result<Self, UnknownNode> {
        Ok(self.with_target(Target::Node(self.dispatch.monitor().node(name)?)))
    }

    /// Returns a handle that sends every statement to the primary.
    #[must_use]
    pub fn primary(&self) -> Self {
        self.with_target(Target::Primary)
    }

    /// Returns a handle that sends every statement to a replica, also one that the router would
    /// take for a write: a call of a function that it does not know, a query of `pg_stat_…`.
    ///
    /// The session's consistency still holds. If no replica is fresh enough, the primary runs the
    /// statement. If a replica refuses the statement, that is an error, and the statement is not
    /// sent again.
    #[must_use]
    pub fn replica(&self) -> Self {
        self.with_target(Target::Replica)
    }

    /// Returns a handle whose reads have this consistency.
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
        let consistency = Some(consistency);
        Self { dispatch: Dispatch { consistency, ..self.dispatch.clone() } }
    }

    /// Returns a handle whose statements end by this moment: with all that they wait for (a connection, a primary,
    /// the fallback budget), and with the attempts that are made again. One that is under way then is cancelled
    /// at the server; over a [pool of the app's own](crate::Engine::from_pool) its connection is closed instead.
    /// Later statements fail at once. It holds for the transactions and leases of the handle too, but for the
    /// steps of a transaction, such as `commit` and `rollback`: they take no time by themselves, and to cut them
    /// would leave in doubt what is stored.
    ///
    /// Behind PgBouncer, and before `open`, only the waiting ends by it, and what is under way goes on. What is sent
    /// over the bare connection of a lease or a transaction, `COPY` among it, knows no deadline.
    ///
    /// Fails with [`Error::DeadlineExceeded`](crate::Error::DeadlineExceeded). A statement that failed, and would
    /// have been run again later, fails with its own error.
    ///
    /// ```no_run
    /// # async fn f(db: flautino::Handle) -> Result<(), sqlx::Error> {
    /// use std::time::{Duration, Instant};
    ///
    /// let db = db.with_deadline(Instant::now() + Duration::from_millis(500));
    /// sqlx::query("SELECT count(*) FROM notes").execute(&db).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        // One that is there already still holds.
        let deadline = Some(self.dispatch.deadline.map_or(deadline, |before| before.min(deadline)));
        Self { dispatch: Dispatch { deadline, ..self.dispatch.clone() } }
    }

    /// Returns a handle whose statements, transactions and leases wait this long for a connection, instead of the
    /// pool's [`acquire_timeout`](crate::PoolConfig::acquire_timeout); with zero they take one that is idle, or
    /// fail at once. Over a [pool of the app's own](crate::Engine::from_pool) it can only be shortened.
    ///
    /// ```no_run
    /// # async fn f(db: flautino::Handle) -> Result<(), sqlx::Error> {
    /// use std::time::Duration;
    ///
    /// let patient = db.with_acquire_timeout(Duration::from_secs(30)); // a nightly job
    /// let lease = patient.acquire().await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_acquire_timeout(&self, timeout: Duration) -> Self {
        let demand =
            Demand { acquire_timeout: Some(Box::new(timeout)), ..self.dispatch.demand.clone() };
        Self { dispatch: Dispatch { demand, ..self.dispatch.clone() } }
    }

    /// The moment by which the handle's statements end, if there is one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.dispatch.deadline
    }

    /// Returns a handle whose statements, transactions and leases run with these settings of PostgreSQL in force,
    /// on whichever node: a tenant for row-level security, a `role`, a `search_path`, a `work_mem`. They are added to
    /// those that the handle has; a name that is there already gets the new value. No other handle sees them.
    ///
    /// A connection keeps them for the next handle with the same ones, which costs nothing then. On a connection
    /// that carries others, they are set in a round trip before the statement, or in that of the `BEGIN`; there are two
    /// before a statement where others are to be taken away first, and at the first use on a connection, as with any
    /// statement that sqlx prepares.
    ///
    /// They are set in the order in which they are given; a `role` costs least where it is the first.
    ///
    /// A setting of the app's own (`app.tenant`) that was set once in a session is the empty text there
    /// later, and not `NULL`: a policy has to deny both, as `nullif(current_setting('app.tenant', true), '')` does.
    ///
    /// Behind PgBouncer, and over a [pool of the app's own](crate::Engine::from_pool), they are set for one
    /// transaction at a time: a statement gets one of its own, so that `VACUUM` and the like cannot run. There
    /// [`acquire`](Handle::acquire) fails behind PgBouncer with
    /// [`Error::SharedSession`](crate::Error::SharedSession).
    ///
    /// If the server refuses a setting, the statement fails with the server's error and is not sent. A name that is
    /// empty, or a zero byte in a name or value, is [`Error::InvalidSetting`](crate::Error::InvalidSetting). Values
    /// are neither logged nor shown.
    ///
    /// ```no_run
    /// # async fn f(db: flautino::Handle) -> Result<(), sqlx::Error> {
    /// // CREATE POLICY own ON notes USING (tenant = nullif(current_setting('app.tenant', true), '')::int)
    /// let db = db.with_settings([("app.tenant", "42")]);
    /// sqlx::query("SELECT * FROM notes").fetch_all(&db).await?; // those of tenant 42
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_settings<I, N, V>(&self, settings: I) -> Self
    where
        I: IntoIterator<Item = (N, V)>,
        N: AsRef<str>,
        V: Into<String>,
    {
        let mut all = self.dispatch.demand.settings.as_deref().cloned().unwrap_or_default();
        settings.into_iter().for_each(|(name, value)| all.set(name.as_ref(), value.into()));
        let settings = (!all.as_slice().is_empty()).then(|| Arc::new(all));
        let demand = Demand { settings, ..self.dispatch.demand.clone() };
        Self { dispatch: Dispatch { demand, ..self.dispatch.clone() } }
    }

    /// The settings of [`with_settings`](Handle::with_settings): names, in lower case, and values.
    #[must_use]
    pub fn settings(&self) -> &[(String, String)] {
        self.dispatch.demand.settings.as_ref().map_or(&[], |settings| settings.as_slice())
    }

    /// The name of the node that was chosen with [`node`](Handle::node), if one was.
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

    /// Returns the token that the session's next request must bring along to see what this one
    /// wrote and, at the level [`Session`](Consistency::Session), what this one read. Returns
    /// `None` if there is nothing to carry over: the session neither wrote nor brought a token, or
    /// the engine has only one node.
    ///
    /// After a write this asks the primary for its WAL position; requests that ask at the same time
    /// share one query. Without a write it costs nothing. If the primary does not answer in time,
    /// the token says "read from the primary for a while".
    ///
    /// # Cancellation
    ///
    /// Cancel safe: the query to the primary goes on for the other requests that share it.
    pub async fn token(&self) -> Option<Token> {
        let (monitor, session) = (self.dispatch.monitor(), self.session());
        let window = monitor.config.token_window;
        if !monitor.routes() {
            // The engine is closing, so no node can be asked any more.
            return session.owes_token().then(|| Token::primary_for(window));
        }
        let state = monitor.state().clone();
        let asked = session.token(&state.snapshot, Instant::now());
        let position = match asked {
            TokenState::None => return None,
            TokenState::Ready(token) => return Some(token),
            TokenState::AskPrimary(event) => monitor.primary_position_after(event).await,
            TokenState::AskNode(number, event) => {
                match monitor.position_after(&state.nodes[number], event).await {
                    // The primary's WAL is ahead of all its replicas, so its position covers the
                    // read too.
                    None => monitor.primary_position_after(event).await,
                    position => position,
                }
            }
        };
        Some(match position {
            Some(position) => session.token_at(asked, position),
            None => Token::primary_for(window),
        })
    }

    /// Whether the client needs a new token: since the last call of [`token`](Handle::token) the
    /// session wrote, or read at the level [`Session`](Consistency::Session), or it brought a token
    /// that cannot be used.
    #[must_use]
    pub fn owes_token(&self) -> bool {
        self.dispatch.monitor().has_replicas() && self.session().owes_token()
    }

    /// Continues another session: from now on this one sees what that one wrote, and its own token
    /// covers that too. Of several tokens, the furthest one counts.
    pub fn observe(&self, token: &Token) {
        self.resume(token);
        self.session().owe_token();
    }

    /// As [`observe`](Handle::observe), for a token that the client brought itself, so that it need
    /// not be sent back to the client.
    pub fn resume(&self, token: &Token) {
        self.session().observe(*token);
    }

    /// Records that the client brought a token that cannot be read. Until there is a new token, the
    /// session reads from the primary.
    pub fn observe_unreadable(&self) {
        self.session().observe_unreadable();
        unreadable_token();
    }

    /// Checks a connection out, for statements that must share one database session: `COPY`,
    /// advisory locks, settings. The connection is to the primary, unless the handle names a node
    /// or asks for a replica. A round trip makes it forget its former user's `currval`, if needed.
    ///
    /// # Errors
    ///
    /// [`Error::AcquireTimeout`](crate::Error::AcquireTimeout) and
    /// [`Error::Closed`](crate::Error::Closed), or the server's error to a new connection.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: a connection that is being made is kept for the next checkout.
    pub fn acquire(&self) -> impl Future<Output = Result<Lease, sqlx::Error>> + Send + use<> {
        let dispatch = self.dispatch.clone();
        async move {
            let settings = dispatch.demand.settings.as_ref();
            let keep = |mut lease: Lease| async move {
                let kept = async {
                    lease.keep_settings(settings).await?;
                    lease.own_sequences().await
                };
                match kept.await {
                    Ok(()) => Ok(lease),
                    Err(error) => Err(Failure::new(error, Phase::Beginning)),
                }
            };
            Ok(dispatch.run(Access::Write, None, keep).await?)
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Handle::acquire), or the server's error to `BEGIN`.
    ///
    /// # Cancellation
    ///
    /// Cancel safe: no open transaction is left on any connection.
    pub fn begin(&self) -> impl Future<Output = Result<Transaction, sqlx::Error>> + Send + use<> {
        self.begin_with(TransactionOptions::default())
    }

    /// Begins a transaction with the given isolation level, access mode and deferral. One that is
    /// read-only and not serializable may run on a replica that is fresh enough for the session
    /// when the transaction begins.
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
            // A standby cannot run a serializable transaction.
            let may_use_replica =
                options.read_only && options.isolation != Some(IsolationLevel::Serializable);
            let access = if may_use_replica { Access::Read } else { Access::Write };
            let begin = |lease| {
                let (options, settings) = (&options, dispatch.demand.settings.as_ref());
                async move {
                    let begun = Transaction::begin_on(lease, options, settings).await;
                    begun.map_err(|error| Failure::new(error, Phase::Beginning))
                }
            };
            Ok(dispatch.run(access, None, begin).await?)
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
    /// Write `async move`: if the closure only borrows what it uses, the compiler cannot prove that
    /// the future is `Send`, as axum's handlers must be.
    ///
    /// # Errors
    ///
    /// The closure's error, or one of `begin` or `commit`.
    ///
    /// # Cancellation
    ///
    /// Rolls back, unless `COMMIT` was already sent; then the transaction may or may not be
    /// committed.
    pub async fn transaction<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: AsyncFnMut(&mut Transaction) -> Result<T, E>,
        E: From<sqlx::Error>,
    {
        self.transaction_with(TransactionOptions::default(), work).await
    }

    /// As [`transaction`](Handle::transaction), with options. With
    /// [`retries`](TransactionOptions::retries) above 0 the whole closure runs again after a
    /// serialization failure (40001), a deadlock (40P01), a connection that was lost before `COMMIT`
    /// was sent, or a statement whose tables or types changed since sqlx prepared it, so it must not
    /// have effects outside the transaction.
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
        work: F,
    ) -> Result<T, E>
    where
        F: AsyncFnMut(&mut Transaction) -> Result<T, E>,
        E: From<sqlx::Error>,
    {
        Transaction::run(&options, || self.begin_with(options.clone()), work).await
    }

    /// Starts to record where the session's statements go and how long they take, for the first
    /// eight of them.
    #[must_use]
    pub fn recorded(self) -> Self {
        self.session().record();
        self
    }

    /// Starts to count how often the session sends which statement.
    #[must_use]
    pub fn counted(self) -> Self {
        self.session().count_repeats();
        self
    }

    /// Returns the statement that was sent most often since [`counted`](Handle::counted), without its values,
    /// and how often, if that is more than `limit` times.
    #[must_use]
    pub fn repeated_above(&self, limit: u32) -> Option<(String, u32)> {
        self.session().repeated_above(limit).map(|(sql, count)| (without_values(&sql), count))
    }

    /// Returns what was recorded since [`recorded`](Handle::recorded), in the order in which the
    /// statements ended.
    #[must_use]
    pub fn timings(&self) -> Vec<Timing> {
        self.session().timings()
    }

    fn classifier(&self) -> &Classifier {
        &self.dispatch.context().classifier
    }
}

executor_through!(&'_ Handle, |handle| handle.dispatch.clone(), |dispatch, statement| {
    let is_behind_pooler = || dispatch.writer().server.sender.is_pooler;
    match statement.admit_to_handle(&dispatch.context().classifier, is_behind_pooler) {
        Ok(()) => Ok(RoutedExecutor::new(dispatch)),
        Err(err) => Err(err.into()),
    }
});

/// For code that is generic over sqlx's `Acquire`, such as `migrate!`.
///
/// `begin` through this trait returns sqlx's own transaction, whose `commit` reports success even
/// if the server has aborted the transaction. [`Handle::begin`], which a plain `db.begin()` calls,
/// does not.
///
/// It is for `&Handle` alone, as sqlx's is for `&Pool` alone. If `Handle` itself had it, a plain
/// `db.begin()` would be sqlx's wherever the trait is imported, because a method that takes `self`
/// comes before one that takes `&self`.
impl<'c> Acquire<'c> for &'_ Handle {
    type Database = Postgres;
    type Connection = Lease;

    fn acquire(self) -> BoxFuture<'c, Result<Lease, sqlx::Error>> {
        Box::pin(Handle::acquire(self))
    }

    fn begin(self) -> BoxFuture<'c, Result<sqlx::Transaction<'c, Postgres>, sqlx::Error>> {
        let this = self.clone();
        Box::pin(async move {
            let node = this.dispatch.writer();
            let pool = node.pool()?;
            let timeout = this.dispatch.demand.acquire_timeout();
            let timeout = timeout.unwrap_or(node.acquire_timeout());
            // The session cannot see what sqlx's transaction writes, nor when it ends.
            this.session().lose_track();
            let begin = async {
                match pool {
                    Some(pool) => pool.begin().await,
                    // If this is cancelled, the connection closes with its pool.
                    None => {
                        let pool = node.server.single_sqlx_pool();
                        let begun = tokio::time::timeout(timeout, pool.begin()).await;
                        begun.unwrap_or(Err(sqlx::Error::PoolTimedOut))
                    }
                }
            };
            let begin = async {
                let mut transaction = begin.await?;
                if let Some(settings) = &this.dispatch.demand.settings {
                    settings.put_for_transaction(&mut transaction, &node.server.sender).await?;
                }
                Ok(transaction)
            };
            this.dispatch.in_time(Box::pin(begin)).await
        })
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("target", &self.dispatch.target)
            .field("consistency", &self.dispatch.effective_consistency())
            .field("settings", &self.dispatch.demand.settings)
            .finish_non_exhaustive()
    }
}
