//! A node's connections while the engine is open: sqlx's pool, and before it the *warm* stack.
//!
//! sqlx's pool pings a connection whenever it is taken and whenever it is given back. A lease
//! that ended clean goes to the warm stack instead and serves the next checkout as it is. After
//! [`warm_time`](crate::PoolConfig::warm_time) it returns to sqlx's pool, so that lifetimes,
//! hooks and code that holds the `PgPool` itself keep their turn.

mod minimum;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres, Transaction};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::error::{AcquireStep, Error};
use crate::lease::Backend;
use crate::node::Node;

/// How long ending an abandoned statement may hold its slot.
const BURY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long sqlx's pool may take to look at a connection that it takes back.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the reaper sleeps at least, so that it cannot spin.
const SHORTEST_REAP: Duration = Duration::from_millis(10);

pub(crate) struct NodePool {
    name: Arc<str>,
    node: Weak<Node>,
    pool: PgPool,
    /// One permit for each connection that may be checked out; fair, and safe to cancel.
    slots: Arc<Semaphore>,
    max: u32,
    /// How many connections are kept open; 0 in a pool made elsewhere, which keeps its own.
    min: u32,
    acquire_timeout: Duration,
    warm_time: Duration,
    warm: Mutex<Vec<Warm>>,
    warm_arrived: Arc<Notify>,
    /// Checkouts that wait inside sqlx's pool, where the warm stack cannot reach them.
    waiting_in_pool: AtomicU32,
    /// Told when a checkout may need the last connection that sqlx's pool may make.
    crowded: Notify,
    /// Connections taken in an earlier generation are thrown away when they come back.
    generation: AtomicU64,
    /// Cancelled to end the statements that still run.
    cut: CancellationToken,
    /// Cancelled with it, and when the node turns down; a new one is made then.
    until_down: Mutex<CancellationToken>,
    /// What was under way then may not be waited for: another node is the primary.
    superseded: AtomicBool,
    tasks: TaskTracker,
    runtime: OnceLock<Runtime>,
    reaper: OnceLock<DropGuard>,
}

/// A connection in the warm stack.
struct Warm(Taken);

/// A connection out of sqlx's pool.
pub(crate) struct Taken {
    pub(crate) connection: PoolConnection<Postgres>,
    /// The server's process behind it, where it said so.
    backend: Option<Backend>,
    /// When sqlx's pool gave it out.
    since: Instant,
    generation: u64,
}

/// The right to have a connection out.
pub(crate) struct Slot {
    _place: OwnedSemaphorePermit,
    pub(crate) budget: Option<OwnedSemaphorePermit>,
}

impl From<OwnedSemaphorePermit> for Slot {
    fn from(place: OwnedSemaphorePermit) -> Self {
        Self { _place: place, budget: None }
    }
}

/// A checked-out connection and its slot.
pub(crate) type Checkout = (Taken, Slot);

impl NodePool {
    pub(crate) fn new(
        name: Arc<str>,
        node: Weak<Node>,
        pool: PgPool,
        min: u32,
        warm_time: Duration,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let options = pool.options();
        let max = options.get_max_connections();
        let cut = CancellationToken::new();
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(max as usize)),
            max,
            min,
            acquire_timeout: options.get_acquire_timeout(),
            name,
            node,
            pool,
            warm_time,
            warm: Mutex::default(),
            warm_arrived: Arc::default(),
            waiting_in_pool: AtomicU32::new(0),
            crowded: Notify::new(),
            generation: AtomicU64::new(0),
            until_down: Mutex::new(cut.child_token()),
            superseded: AtomicBool::new(false),
            cut,
            tasks,
            runtime: OnceLock::new(),
            reaper: OnceLock::new(),
        })
    }

    pub(crate) fn sqlx(&self) -> &PgPool {
        &self.pool
    }

    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// Cancelled when the node turns down, or when the engine's drain time is over.
    pub(crate) fn until_down(&self) -> CancellationToken {
        self.until_down.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node is down: what waits on it fails, and what rests is given up.
    pub(crate) fn abort_waiting(&self) {
        self.abort(false);
    }

    /// Another node is the primary: whatever this one acknowledges from now on is lost.
    pub(crate) fn supersede(&self) {
        self.abort(true);
    }

    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    fn abort(&self, superseded: bool) {
        self.superseded.store(superseded, Ordering::Release);
        let next = self.cut.child_token();
        let mut current = self.until_down.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, next);
        drop(current);
        old.cancel();
        self.renew();
    }

    /// Why `until_down` was cancelled. `sent` tells whether the statement may have run.
    pub(crate) fn ended(&self, sent: bool) -> sqlx::Error {
        let node = self.name.to_string();
        match (self.cut.is_cancelled(), sent) {
            (true, true) => Error::Cut { node }.into(),
            (true, false) => Error::Closed { node }.into(),
            (false, sent) => Error::NodeDown { node, sent }.into(),
        }
    }

    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    pub(crate) fn warm_count(&self) -> usize {
        self.lock_warm().len()
    }

    pub(crate) fn in_use(&self) -> u32 {
        let free = u32::try_from(self.slots.available_permits()).unwrap_or(self.max);
        self.max.saturating_sub(free)
    }

    /// A connection: the warmest, else one from sqlx's pool.
    ///
    /// Dropped while it waits for a slot, nothing happened; dropped while it connects, the
    /// connection is made all the same and kept for the next, so that impatient clients cause no
    /// storm of reconnections.
    pub(crate) async fn checkout(
        self: &Arc<Self>,
        until_down: &CancellationToken,
    ) -> Result<Checkout, sqlx::Error> {
        self.start();
        match until_down.run_until_cancelled(self.wait_for_one()).await {
            Some(checkout) => checkout,
            None => Err(self.ended(false)),
        }
    }

    async fn wait_for_one(self: &Arc<Self>) -> Result<Checkout, sqlx::Error> {
        let started = Instant::now();
        let slot = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => Slot::from(slot),
            Err(_) => {
                let wait = Arc::clone(&self.slots).acquire_owned();
                match tokio::time::timeout(self.acquire_timeout, wait).await {
                    Ok(Ok(slot)) => Slot::from(slot),
                    Ok(Err(_)) => return Err(self.closed()),
                    Err(_) => return Err(self.timed_out(started, AcquireStep::WaitingForSlot)),
                }
            }
        };
        if let Some(taken) = self.pop_warm() {
            return Ok((taken, slot));
        }
        let left = self.acquire_timeout.saturating_sub(started.elapsed());
        let home = Arc::clone(self);
        let connecting = self.tasks.spawn(async move { home.take(slot).await });
        match tokio::time::timeout(left, connecting).await {
            Ok(Ok(Ok(unclaimed))) => unclaimed.claim().ok_or_else(|| self.closed()),
            Ok(Ok(Err(sqlx::Error::PoolTimedOut))) | Err(_) => {
                Err(self.timed_out(started, AcquireStep::Connecting))
            }
            Ok(Ok(Err(sqlx::Error::PoolClosed)) | Err(_)) => Err(self.closed()),
            Ok(Ok(Err(err))) => Err(err),
        }
    }

    async fn take(self: Arc<Self>, slot: Slot) -> Result<Unclaimed, sqlx::Error> {
        let taking = tokio::time::timeout(self.acquire_timeout, self.take_from_sqlx());
        match self.cut.run_until_cancelled(taking).await {
            Some(Ok(taken)) => {
                let checkout = Some((taken?, slot));
                Ok(Unclaimed { checkout, home: self })
            }
            Some(Err(_)) => Err(sqlx::Error::PoolTimedOut),
            None => Err(sqlx::Error::PoolClosed),
        }
    }

    async fn take_from_sqlx(&self) -> Result<Taken, sqlx::Error> {
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            let connection = {
                let _waiting = Waiting::begin(&self.waiting_in_pool);
                if self.slots.available_permits() == 0 {
                    self.crowded.notify_waiters();
                }
                self.pool.acquire().await?
            };
            // Dropped before it is known to answer, it must not go back: sqlx's pool would ping it,
            // and wait for the answer without a bound.
            let mut unproven = Unproven { connection: Some(connection), home: self };
            let backend = match (self.node.upgrade(), &mut unproven.connection) {
                (Some(node), Some(connection)) => Backend::of(connection, &node).await?,
                _ => None,
            };
            // Given up while it was made: it may be set up for another role.
            if generation == self.generation.load(Ordering::Acquire) {
                let connection = unproven.connection.take().ok_or(sqlx::Error::PoolClosed)?;
                return Ok(Taken { connection, backend, since: Instant::now(), generation });
            }
        }
    }

    /// A transaction of sqlx's own. `washed` tells whether sqlx's pool resets what it takes back.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        washed: bool,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let until_down = self.until_down();
        let (home, until) = (Arc::clone(self), until_down.clone());
        // In a task of its own, since sqlx's `begin` leaves the transaction open on the connection
        // when it is cancelled half-way. Where nothing washes that, it goes on until the pool is closed.
        let begun = self.tasks.spawn(async move {
            let beginning = home.pool.begin();
            if washed {
                return home.in_time(&until, beginning).await;
            }
            home.cut.run_until_cancelled(beginning).await.unwrap_or_else(|| Err(home.ended(false)))
        });
        let begun = async { begun.await.map_err(|err| sqlx::Error::Io(io::Error::other(err)))? };
        self.in_time(&until_down, begun).await
    }

    /// The work's result, unless it takes longer than `acquire_timeout` or the node turns down.
    async fn in_time<T>(
        &self,
        until_down: &CancellationToken,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let work = until_down.run_until_cancelled(work);
        match tokio::time::timeout(self.acquire_timeout, work).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(self.ended(false)),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }

    /// Takes back a connection that is known to be clean.
    pub(crate) fn give_back(&self, taken: Taken) {
        if taken.generation != self.generation.load(Ordering::Acquire) {
            return self.throw_away(taken);
        }
        let stays_warm = taken.since.elapsed() < self.warm_time
            && self.waiting_in_pool.load(Ordering::Acquire) == 0
            && !self.pool.is_closed();
        if !stays_warm {
            return self.return_to_sqlx(taken.connection);
        }
        let mut warm = self.lock_warm();
        // Compared under the lock: what `renew` does not give up, since it comes later, is seen here.
        if taken.generation != self.generation.load(Ordering::Acquire) {
            drop(warm);
            return self.throw_away(taken);
        }
        warm.push(Warm(taken));
        drop(warm);
        self.warm_arrived.notify_one();
        // `close` may have drained the stack between the check and the push.
        if self.pool.is_closed() {
            self.return_warm();
        }
    }

    /// Closes the socket without a word to the server, which notices by itself.
    pub(crate) fn throw_away(&self, taken: Taken) {
        self.detach(taken.connection);
    }

    fn detach(&self, connection: PoolConnection<Postgres>) {
        // Dropping a `PoolConnection` may spawn.
        let _context = self.runtime.get().map(Runtime::enter);
        drop(connection.detach());
    }

    /// Closes the socket of a connection on which a statement may still run, and has the server
    /// end it. The slot is held until that is done, so that clients who leave in numbers cannot
    /// fill the server with sessions that nobody waits for.
    pub(crate) fn abandon(self: &Arc<Self>, taken: Taken, slot: Slot) {
        let backend = taken.backend;
        self.throw_away(taken);
        // While the engine closes, the server finds out by itself.
        let closing = self.cut.is_cancelled() || self.pool.is_closed();
        if let (Some(backend), Some(node), false) = (backend, self.node.upgrade(), closing) {
            self.spawn(Arc::clone(self).bury(backend, node, slot));
        }
    }

    async fn bury(self: Arc<Self>, backend: Backend, node: Arc<Node>, slot: Slot) {
        // The slot's next user would need a connection anyway; it finds this one warm.
        let taken = match self.pop_warm() {
            Some(taken) => Some(taken),
            None => self.bounded(self.take_from_sqlx()).await,
        };
        if let Some(mut taken) = taken {
            match self.bounded(backend.end(&mut taken.connection, &node)).await {
                Some(()) => self.give_back(taken),
                None => self.throw_away(taken),
            }
        }
        drop(slot);
    }

    /// `None` where the work failed, took too long, or the engine closed.
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Option<T> {
        match self.cut.run_until_cancelled(tokio::time::timeout(BURY_TIMEOUT, work)).await {
            Some(Ok(Ok(value))) => Some(value),
            Some(Ok(Err(error))) => {
                tracing::debug!(node = %self.name, %error, "an abandoned statement is left to the server");
                None
            }
            Some(Err(_)) | None => None,
        }
    }

    /// sqlx's pool pings what it takes back; one that does not answer is closed.
    fn return_to_sqlx(&self, mut connection: PoolConnection<Postgres>) {
        let _context = self.runtime.get().map(Runtime::enter);
        let returning = tokio::time::timeout(RETURN_TIMEOUT, connection.return_to_pool());
        self.spawn(async move { drop(returning.await) });
    }

    /// Gives up every connection made so far: the server behind the name is not what it was.
    pub(crate) fn renew(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        if let Some(node) = self.node.upgrade() {
            node.note_renewal();
        }
        let warm = std::mem::take(&mut *self.lock_warm());
        for Warm(taken) in warm {
            self.throw_away(taken);
        }
        let _context = self.runtime.get().map(Runtime::enter);
        while let Some(idle) = self.pool.try_acquire() {
            drop(idle.detach());
        }
    }

    /// The connections that stand idle, warm ones included, are closed at once, politely.
    /// Answers how many there were.
    pub(crate) async fn close_idle(&self) -> usize {
        let warm = std::mem::take(&mut *self.lock_warm());
        let mut idle: Vec<_> = warm.into_iter().map(|Warm(taken)| taken.connection).collect();
        while let Some(connection) = self.pool.try_acquire() {
            idle.push(connection);
        }
        let count = idle.len();
        let closing = idle.into_iter().map(PoolConnection::close);
        futures_util::future::join_all(closing).await;
        count
    }

    /// Runs a task that `close` waits for, on the runtime that the pool was first used on.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = self.runtime.get() {
            self.tasks.spawn_on(task, runtime);
        }
    }

    pub(crate) fn closed(&self) -> sqlx::Error {
        Error::Closed { node: self.name.to_string() }.into()
    }

    fn timed_out(&self, started: Instant, step: AcquireStep) -> sqlx::Error {
        Error::AcquireTimeout {
            node: self.name.to_string(),
            waited: started.elapsed(),
            step,
            in_use: self.in_use(),
            max: self.max,
        }
        .into()
    }

    fn pop_warm(&self) -> Option<Taken> {
        self.lock_warm().pop().map(|Warm(taken)| taken)
    }

    /// Hands all that is warm back to sqlx's pool, which pings before it lends.
    pub(crate) fn return_warm(&self) {
        let warm = std::mem::take(&mut *self.lock_warm());
        for Warm(taken) in warm {
            self.return_to_sqlx(taken.connection);
        }
    }

    fn lock_warm(&self) -> std::sync::MutexGuard<'_, Vec<Warm>> {
        // A push or a pop cannot leave the stack half-changed.
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anything runs: remembers the runtime and starts the reaper on it.
    fn start(self: &Arc<Self>) {
        self.reaper.get_or_init(|| {
            let runtime = self.runtime.get_or_init(Runtime::current);
            let stop = CancellationToken::new();
            let reaper =
                reap(Arc::downgrade(self), Arc::clone(&self.warm_arrived), self.pool.clone());
            let stopped = stop.clone();
            self.tasks.spawn_on(
                async move {
                    stopped.run_until_cancelled(reaper).await;
                },
                runtime,
            );
            stop.drop_guard()
        });
    }

    /// Returns what has been warm for long enough; answers when the next one is due.
    fn return_due(&self) -> Option<Duration> {
        let mut due = Vec::new();
        let next = {
            let mut warm = self.lock_warm();
            // Oldest last in service: the stack's bottom is what no checkout has reached.
            for index in (0..warm.len()).rev() {
                if warm[index].0.since.elapsed() >= self.warm_time {
                    due.push(warm.remove(index));
                }
            }
            warm.iter().map(|Warm(taken)| taken.since).min()
        };
        for Warm(taken) in due {
            self.return_to_sqlx(taken.connection);
        }
        next.map(|since| self.warm_time.saturating_sub(since.elapsed()).max(SHORTEST_REAP))
    }
}

/// Returns warm connections to sqlx's pool in time, and at once when that pool is closed by
/// whoever else holds it, since its `close` waits for them.
async fn reap(home: Weak<NodePool>, arrived: Arc<Notify>, pool: PgPool) {
    let mut closed = pool.close_event();
    loop {
        let Some(next) = home.upgrade().map(|home| home.return_due()) else {
            return;
        };
        // Nothing here keeps the pool alive while it waits.
        tokio::select! {
            () = &mut closed => break,
            () = tokio::time::sleep(next.unwrap_or_default()), if next.is_some() => {}
            () = arrived.notified(), if next.is_none() => {}
        }
    }
    if let Some(home) = home.upgrade() {
        home.return_warm();
    }
}

/// A connection that has not answered yet; dropped, it is closed.
struct Unproven<'a> {
    connection: Option<PoolConnection<Postgres>>,
    home: &'a NodePool,
}

impl Drop for Unproven<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.home.detach(connection);
        }
    }
}

/// Counts a checkout inside sqlx's pool for as long as it lives.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A checkout that its asker may have given up; it goes to the warm stack then.
struct Unclaimed {
    checkout: Option<Checkout>,
    home: Arc<NodePool>,
}

impl Unclaimed {
    fn claim(mut self) -> Option<Checkout> {
        self.checkout.take()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some((taken, slot)) = self.checkout.take() {
            self.home.give_back(taken);
            drop(slot);
        }
    }
}

impl Drop for NodePool {
    fn drop(&mut self) {
        self.return_warm();
    }
}

impl fmt::Debug for NodePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePool")
            .field("node", &self.name)
            .field("max", &self.max)
            .field("in_use", &self.in_use())
            .field("warm", &self.warm_count())
            .finish_non_exhaustive()
    }
}
