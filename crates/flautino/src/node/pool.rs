//! A node's connections while the engine is open: a last-in-first-out stack, and a fair queue.
//!
//! A caller takes the idle connection that was used last. If none is idle, it joins the queue, and a task
//! makes a connection where the pool may have one more. The first caller in the queue gets whichever
//! comes first: a new connection, or one that another caller gives back. A clean connection is given back
//! without a message to the server and without a task.
//!
//! - `checkout`, `connecting`: how a caller gets a connection; how one is made
//! - `pooled_connection`, `slot`, `managed`: a connection that is checked out; that it counts as in use;
//!   what the pool knows of it
//! - `state`, `queue`: idle connections; waiting callers
//! - `recovery`: what happens to a connection that is not known to be clean
//! - `ending`, `signals`, `signal_queue`: how statements are cancelled at the server
//! - `reaper`: how long connections stay idle, how long they live, and which of them are dead
//! - `epoch`: when all connections are replaced at once
//! - `demand`: what a caller asks for
//! - `counts`: the pool's numbers, for the status
//! - `external`: connections of a pool of the app's own, in place of all that
//! - `sqlx_pool`: the `PgPool` beside

mod checkout;
mod connecting;
pub(super) mod counts;
pub(super) mod demand;
mod ending;
mod epoch;
mod external;
mod managed;
pub(super) mod pooled_connection;
mod queue;
mod reaper;
mod recovery;
mod signal_queue;
mod signals;
mod slot;
mod sqlx_pool;
mod state;

use std::fmt;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::{PgConnection, PgPool};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::epoch::{EndListener, EndReason, Epoch};
use self::managed::{DriverConnection, Idle, ManagedConnection, Registry};
use self::signal_queue::SignalQueue;
use self::state::PoolState;
use super::backend::Backend;
use super::hooks::Hooks;
use super::server::Server;
use crate::config::PoolConfig;
use crate::error::Error;

/// How long telling the server that a connection closes may take.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The pool of one node.
pub(crate) struct NodePool {
    server: Arc<Server>,
    connector: Connector,
    config: PoolConfig,
    hooks: Hooks,
    /// How many callers wait for the external pool.
    waiting_outside: AtomicU32,
    /// `connect_concurrency` permits, one for each connection that is being made.
    connect_permits: Semaphore,
    state: Mutex<PoolState>,
    signal_queue: SignalQueue,
    /// Cancelled when nothing can be checked out any more.
    closing: CancellationToken,
    /// Notified of each connection that comes back after that.
    returned: Notify,
    /// See [`sqlx_pool`].
    sqlx_pool: OnceLock<PgPool>,
    /// The engine's tasks, which `close` waits for.
    tasks: TaskTracker,
    /// The runtime on which the pool was first used, and where its tasks run.
    runtime: OnceLock<Runtime>,
    /// Whether [`start`](Self::start) was called.
    started: OnceLock<()>,
}

/// Where new connections come from.
enum Connector {
    Server,
    /// A pool of the app's own; see [`external`].
    External(PgPool),
}

impl NodePool {
    /// A pool of connections to the server.
    pub(crate) fn new(
        server: &Arc<Server>,
        config: PoolConfig,
        hooks: Hooks,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Self::build(server, Connector::Server, config, hooks, tasks)
    }

    fn build(
        server: &Arc<Server>,
        connector: Connector,
        config: PoolConfig,
        hooks: Hooks,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        Arc::new(Self {
            server: Arc::clone(server),
            connector,
            waiting_outside: AtomicU32::new(0),
            connect_permits: Semaphore::new(config.connect_concurrency as usize),
            state: Mutex::new(PoolState::new(config.max_connections)),
            config,
            hooks,
            signal_queue: SignalQueue::default(),
            closing: CancellationToken::new(),
            returned: Notify::new(),
            sqlx_pool: OnceLock::new(),
            tasks,
            runtime: OnceLock::new(),
            started: OnceLock::new(),
        })
    }

    /// Hands a clean connection that is not in use to the first caller in the queue, else puts it on the
    /// stack. Retires it if it must not be used again.
    fn offer(self: &Arc<Self>, managed: Box<ManagedConnection>) {
        let now = Instant::now();
        let refused = self.state.lock().accept(managed, now);
        if let Some(managed) = refused {
            self.retire(managed);
        }
    }

    /// Parts with a connection that the pool does not keep: closes it, or gives it back to the external
    /// pool that it came from.
    fn retire(self: &Arc<Self>, managed: Box<ManagedConnection>) {
        match managed.connection {
            DriverConnection::External(_) if !self.is_in(&managed.epoch) => {
                self.discard(*managed);
            }
            DriverConnection::External(_) => {
                // Dropping it gives it back to its own pool.
                let _context = self.enter_runtime();
                drop(managed);
            }
            DriverConnection::Own(_) if managed.epoch.is_ended() => self.discard(*managed),
            DriverConnection::Own(_) => self.spawn(close_managed(managed)),
        }
    }

    /// Closes the socket without telling the server, which notices by itself.
    fn discard(&self, managed: ManagedConnection) {
        drop(self.detach(managed));
    }

    /// Takes a connection out of the pool, and of the external pool that it came from.
    fn detach(&self, managed: ManagedConnection) -> PgConnection {
        match managed.connection {
            DriverConnection::Own(connection) => connection,
            DriverConnection::External(connection) => {
                let _context = self.enter_runtime();
                connection.detach()
            }
        }
    }

    pub(crate) fn epoch(&self) -> Arc<Epoch> {
        Arc::clone(&self.state.lock().epoch)
    }

    /// Whether this is still the epoch.
    fn is_in(&self, epoch: &Epoch) -> bool {
        self.state.lock().epoch.is(epoch)
    }

    /// The error of a statement that was ended with this epoch. `sent` says that it may have run.
    pub(crate) fn end_error(&self, epoch: &Epoch, sent: bool) -> sqlx::Error {
        epoch.error(self.name(), sent)
    }

    /// Replaces every connection, because the node's role or identity changed. Statements that run go
    /// on; their connections are closed when they are given back.
    pub(crate) fn renew(&self) {
        let outdated = {
            let mut state = self.state.lock();
            state.epoch = state.epoch.renewed();
            std::mem::take(&mut state.idle)
        };
        drop(outdated);
        self.discard_external_idle();
    }

    /// Ends everything that runs on a connection or waits for one, and replaces every connection.
    pub(crate) fn end(&self, reason: EndReason) {
        let (ended, outdated, waiting) = {
            let mut state = self.state.lock();
            let next = state.epoch.replaced();
            let ended = std::mem::replace(&mut state.epoch, next);
            // Before the state is unlocked: nobody whose epoch is not ended joins the queue of the next one.
            ended.end(reason);
            (ended, std::mem::take(&mut state.idle), state.queue.take())
        };
        waiting.dismiss(|| ended.error(self.name(), false));
        drop(outdated);
        self.discard_external_idle();
    }

    /// From now on nothing can be checked out, and whoever waits gets an error.
    pub(crate) fn shut(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.closed = true;
            state.queue.take()
        };
        waiting.dismiss(|| self.closed_error());
        self.closing.cancel();
    }

    /// Closes the idle connections, and tells the server so. Returns how many there were.
    pub(crate) async fn close_idle(&self) -> usize {
        if let Connector::External(pool) = &self.connector {
            return Self::close_external_idle(pool).await;
        }
        let idle = std::mem::take(&mut self.state.lock().idle);
        let count = idle.len();
        futures_util::future::join_all(idle.into_iter().map(|idle| close_managed(idle.managed)))
            .await;
        count
    }

    /// Closes a pool that is shut. Returns when every connection is back.
    pub(crate) async fn close(&self) {
        let sqlx_pool = self.existing_sqlx_pool().map(PgPool::close);
        let sqlx_pool = futures_util::future::OptionFuture::from(sqlx_pool);
        futures_util::future::join(self.all_returned(), sqlx_pool).await;
    }

    async fn all_returned(&self) {
        loop {
            let mut returned = std::pin::pin!(self.returned.notified());
            // Enabled before the check, so that no notification in between is missed.
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
        self.state.lock().max
    }

    /// Changes how many connections the pool may have. Those beyond that are closed: idle ones now, the others when
    /// they are given back.
    pub(crate) fn resize(self: &Arc<Self>, max: u32) {
        let excess = {
            let mut state = self.state.lock();
            state.max = max;
            let excess = state.idle.len().min(state.size.saturating_sub(max) as usize);
            // The bottom of the stack, which was used longest ago.
            state.idle.drain(..excess).collect::<Vec<_>>()
        };
        for Idle { managed, .. } in excess {
            self.spawn(close_managed(managed));
        }
        self.grow();
    }

    /// How many connections are checked out, or recovered after that.
    pub(crate) fn in_use(&self) -> u32 {
        self.state.lock().in_use
    }

    /// Notes that a connection is not in use any more.
    fn leave(&self, state: &mut PoolState) {
        state.in_use = state.in_use.saturating_sub(1);
        if state.closed {
            self.returned.notify_waiters();
        }
    }

    /// Spawns a task that `close` of the engine waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = self.runtime() {
            self.tasks.spawn_on(task, &runtime);
        }
    }

    /// The runtime for the pool's tasks: the one that the pool was first used on. An external pool is
    /// not bound to a runtime, so there it is the one that uses it now.
    fn runtime(&self) -> Option<Runtime> {
        let current = match &self.connector {
            Connector::External(_) => Runtime::try_current().ok(),
            Connector::Server => None,
        };
        current.or_else(|| self.runtime.get().cloned())
    }

    /// The name of the pool's node.
    fn name(&self) -> &Arc<str> {
        self.server.name()
    }

    fn closed_error(&self) -> sqlx::Error {
        Error::Closed { node: self.name().to_string() }.into()
    }
}

impl Registry for NodePool {
    fn unregister(self: Arc<Self>, backend: Option<Backend>) {
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

/// Closes a connection of this pool and tells the server so.
async fn close_managed(managed: Box<ManagedConnection>) {
    let ManagedConnection { connection, registration, .. } = *managed;
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
    // It counts until it is closed.
    drop(registration);
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
