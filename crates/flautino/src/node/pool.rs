//! A node's connections while the engine is open: a fair semaphore and a last-in-first-out stack.
//!
//! Who wants a connection takes a permit, and then the connection that was used last. Where none
//! rests, one is made in a task of its own, and whoever waits longest gets what comes first: that one,
//! or one that is given back. A connection that ended clean is given back with no message and no
//! task; `recovery` says what becomes of the others, `reaper` how long they rest.

mod canceller;
mod cancelling;
mod checkout;
mod entry;
mod epoch;
pub(super) mod lent;
mod making;
mod permit;
mod reaper;
mod recovery;
mod sqlx_pool;
mod state;

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::canceller::Canceller;
use self::entry::{Entry, Idle, Link, Places};
pub(crate) use self::epoch::{EndReason, Epoch};
use self::state::State;
use super::backend::Backend;
use super::hooks::Hooks;
use super::server::Server;
use crate::config::PoolConfig;
use crate::error::Error;

/// How long a connection's goodbye may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) struct NodePool {
    server: Arc<Server>,
    source: Source,
    config: PoolConfig,
    hooks: Hooks,
    /// One for each connection that may be out; fair, and safe to cancel.
    permits: Semaphore,
    /// Those who wait for a permit.
    queued: AtomicU32,
    /// How many connections may be made at a time.
    connecting: Semaphore,
    state: Mutex<State>,
    canceller: Canceller,
    /// Told when someone waits in vain while connections are made for the minimum.
    crowded: Notify,
    /// Cancelled when nothing is lent any more.
    closing: CancellationToken,
    /// Told of each permit that comes back after that.
    returned: Notify,
    /// See [`sqlx_pool`].
    sqlx_pool: OnceLock<PgPool>,
    tasks: TaskTracker,
    runtime: OnceLock<Runtime>,
    reaper: OnceLock<()>,
}

/// Where connections come from.
enum Source {
    Server,
    /// A pool that was made elsewhere. It lends each for one lease, so that its hooks run in between.
    Pool(PgPool),
}

/// How many connections of a pool do what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) size: u32,
    pub(crate) idle: usize,
    pub(crate) warm: usize,
    pub(crate) in_use: u32,
    pub(crate) connecting: u32,
    pub(crate) waiting: u32,
}

impl NodePool {
    /// A pool of connections to the server.
    pub(crate) fn new(
        server: &Arc<Server>,
        config: PoolConfig,
        hooks: Hooks,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Self::over(server, Source::Server, config, hooks, tasks)
    }

    /// A pool in front of one that was made elsewhere.
    pub(crate) fn borrowing(server: &Arc<Server>, pool: PgPool, tasks: TaskTracker) -> Arc<Self> {
        let options = pool.options();
        let config = PoolConfig {
            max_connections: options.get_max_connections(),
            acquire_timeout: options.get_acquire_timeout(),
            connect_concurrency: options.get_max_connections(),
            ..PoolConfig::default()
        };
        Self::over(server, Source::Pool(pool), config, Hooks::default(), tasks)
    }

    fn over(
        server: &Arc<Server>,
        source: Source,
        config: PoolConfig,
        hooks: Hooks,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            server: Arc::clone(server),
            source,
            permits: Semaphore::new(config.max_connections as usize),
            queued: AtomicU32::new(0),
            connecting: Semaphore::new(config.connect_concurrency as usize),
            config,
            hooks,
            state: Mutex::new(State::new()),
            canceller: Canceller::default(),
            crowded: Notify::new(),
            closing: CancellationToken::new(),
            returned: Notify::new(),
            sqlx_pool: OnceLock::new(),
            tasks,
            runtime: OnceLock::new(),
            reaper: OnceLock::new(),
        })
    }

    /// Takes a clean connection back. One that is borrowed goes back to its own pool, whose hooks run
    /// between two users.
    fn take_back(self: &Arc<Self>, entry: Entry) {
        match entry.link {
            Link::Own(_) => self.take_in(entry),
            Link::Borrowed(_) => self.refuse(entry),
        }
    }

    /// A clean connection: for whoever waits longest, else on top of the stack.
    fn take_in(self: &Arc<Self>, entry: Entry) {
        let now = Instant::now();
        // Compared under the lock, so that no epoch ends between the look and the stack.
        let refused = self.state.lock().accept(entry, now);
        if let Some(entry) = refused {
            self.refuse(entry);
        }
    }

    fn refuse(self: &Arc<Self>, entry: Entry) {
        match entry.link {
            Link::Borrowed(_) if !entry.epoch.is(&self.epoch()) => self.discard(entry),
            Link::Borrowed(_) => {
                // Dropped, it goes back to its own pool, which spawns.
                let _context = self.runtime.get().map(Runtime::enter);
                drop(entry);
            }
            Link::Own(_) if entry.epoch.is_ended() => self.discard(entry),
            Link::Own(_) => self.spawn(close_entry(entry)),
        }
    }

    /// Closes the socket without a word to the server, which notices by itself.
    fn discard(&self, entry: Entry) {
        drop(self.detached(entry));
    }

    /// The connection without its place in the pool.
    fn detached(&self, entry: Entry) -> PgConnection {
        match entry.link {
            Link::Own(connection) => connection,
            Link::Borrowed(connection) => {
                // sqlx's pool may spawn, to make another in its place.
                let _context = self.runtime.get().map(Runtime::enter);
                connection.detach()
            }
        }
    }

    /// A connection was lost in use: those that rest may have died with it. They are looked at, and
    /// lent again if they answer.
    pub(crate) fn suspect_idle(self: &Arc<Self>) {
        let idle = std::mem::take(&mut self.state.lock().idle);
        for Idle { mut entry, .. } in idle {
            let pool = Arc::clone(self);
            self.spawn(async move {
                match entry.answers(pool.config.ping_timeout).await {
                    true => pool.take_back(entry),
                    false => pool.discard(entry),
                }
            });
        }
    }

    /// One that has rested since then does not answer: those that rested as long are dead as well,
    /// and looking at each would take the asker's time.
    fn discard_rested(&self, since: Instant) {
        let dead = self.state.lock().take_idle(|idle| idle.since <= since);
        drop(dead);
    }

    pub(crate) fn epoch(&self) -> Arc<Epoch> {
        Arc::clone(&self.state.lock().epoch)
    }

    /// What is told to a statement that the end of that epoch ends; `sent` tells whether it may have run.
    pub(crate) fn ended(&self, epoch: &Epoch, sent: bool) -> sqlx::Error {
        epoch.error(self.name(), sent)
    }

    /// Gives up every connection made so far: the server behind the name is not what it was. What runs
    /// goes on.
    pub(crate) fn renew(&self) {
        let given_up = {
            let mut state = self.state.lock();
            state.epoch = state.epoch.renewed();
            std::mem::take(&mut state.idle)
        };
        drop(given_up);
        self.discard_lendable();
    }

    /// The same for what rests in a pool that was made elsewhere.
    fn discard_lendable(&self) {
        if let Source::Pool(pool) = &self.source {
            let _context = self.runtime.get().map(Runtime::enter);
            while let Some(connection) = pool.try_acquire() {
                drop(connection.detach());
            }
        }
    }

    /// Ends what runs and what waits, and gives up every connection made so far.
    pub(crate) fn end(&self, why: EndReason) {
        let (ended, given_up) = {
            let mut state = self.state.lock();
            let next = state.epoch.replaced();
            (std::mem::replace(&mut state.epoch, next), std::mem::take(&mut state.idle))
        };
        ended.end(why);
        drop(given_up);
        self.discard_lendable();
    }

    /// Lends nothing from now on.
    pub(crate) fn shut(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
        self.permits.close();
        self.closing.cancel();
    }

    /// Closes what rests, politely. Returns how many connections that were.
    pub(crate) async fn close_idle(&self) -> usize {
        let idle = std::mem::take(&mut self.state.lock().idle);
        if let Source::Pool(pool) = &self.source {
            let idle: Vec<_> = std::iter::from_fn(|| pool.try_acquire()).collect();
            let count = idle.len();
            let closing = idle
                .into_iter()
                .map(|connection| tokio::time::timeout(CLOSE_TIMEOUT, connection.close()));
            futures_util::future::join_all(closing).await;
            return count;
        }
        let count = idle.len();
        futures_util::future::join_all(idle.into_iter().map(|idle| close_entry(idle.entry))).await;
        count
    }

    /// Closes a pool that is shut; ready when every connection is back.
    pub(crate) async fn close(&self) {
        let sqlx_pool = self.made_sqlx_pool().map(PgPool::close);
        let sqlx_pool = futures_util::future::OptionFuture::from(sqlx_pool);
        futures_util::future::join(self.all_returned(), sqlx_pool).await;
    }

    async fn all_returned(&self) {
        loop {
            let mut returned = std::pin::pin!(self.returned.notified());
            // Enabled before the look, so that none is missed.
            returned.as_mut().enable();
            if self.in_use() == 0 {
                return;
            }
            returned.await;
        }
    }

    /// Whether it is shut.
    pub(crate) fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    pub(crate) fn max(&self) -> u32 {
        self.config.max_connections
    }

    /// Permits that are out.
    pub(crate) fn in_use(&self) -> u32 {
        let free = u32::try_from(self.permits.available_permits()).unwrap_or(u32::MAX);
        self.max().saturating_sub(free)
    }

    pub(crate) fn counts(&self) -> Counts {
        let state = self.state.lock();
        let waiting = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
        let turns = u32::try_from(self.connecting.available_permits()).unwrap_or(u32::MAX);
        // Others are to be made, and have no turn yet.
        let connecting = self.config.connect_concurrency.saturating_sub(turns);
        let is_warm = |idle: &&Idle| idle.since.elapsed() < self.config.warm_time;
        let mut counts = Counts {
            size: state.size.saturating_sub(state.making) + connecting,
            idle: state.idle.len(),
            warm: state.idle.iter().filter(is_warm).count(),
            in_use: self.in_use().saturating_sub(waiting),
            connecting,
            waiting: waiting + self.queued.load(Ordering::Relaxed),
        };
        if let Source::Pool(pool) = &self.source {
            (counts.size, counts.idle) = (pool.size(), pool.num_idle());
        }
        counts
    }

    /// Runs a task that `close` waits for, on the runtime that the pool was first used on.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = self.runtime.get() {
            self.tasks.spawn_on(task, runtime);
        }
    }

    fn return_permit(&self) {
        self.permits.add_permits(1);
        self.tell_returned();
    }

    fn tell_returned(&self) {
        if self.closing.is_cancelled() {
            self.returned.notify_waiters();
        }
    }

    /// The name of the pool's node.
    fn name(&self) -> &Arc<str> {
        self.server.name()
    }

    fn closed(&self) -> sqlx::Error {
        Error::Closed { node: self.name().to_string() }.into()
    }
}

impl Places for NodePool {
    fn give_up(self: Arc<Self>, backend: Option<Backend>) {
        {
            let mut state = self.state.lock();
            state.size = state.size.saturating_sub(1);
            if let Some(backend) = backend {
                state.backends.remove(&backend);
            }
        }
        self.grow();
    }
}

impl Drop for NodePool {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn close_entry(entry: Entry) {
    let Entry { link, place, .. } = entry;
    if let Link::Own(connection) = link {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
    }
    // Only now is there room for another.
    drop(place);
}

impl fmt::Debug for NodePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodePool")
            .field("node", self.name())
            .field("max", &self.max())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}
