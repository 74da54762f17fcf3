//! How connections are made: in tasks of their own, so that a caller who leaves does not waste one, and
//! no more than are needed.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::NodePool;
use super::epoch::Epoch;
use super::managed::{DriverConnection, ManagedConnection, Registration, Registry};
use super::state::PoolState;
use crate::node::backend::Backend;
use crate::sqlstate::refuses_more;

/// How long a server that takes no more connections is not asked for another one, while the pool has
/// connections that its callers can share.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// How long a caller waits before connections that are being made for the minimum give way to it.
const CONTENDED_AFTER: Duration = Duration::from_millis(200);

/// Counts a connection as pending until it is made or has failed.
struct PendingConnection {
    pool: Arc<NodePool>,
    /// It was made: it stays counted in the pool's size, which its `Registration` undoes.
    is_made: bool,
    /// The attempt ended. `false` when this is dropped half-way, because the runtime ends.
    is_finished: bool,
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        {
            let mut state = self.pool.state.lock();
            state.pending = state.pending.saturating_sub(1);
            state.size = state.size.saturating_sub(u32::from(!self.is_made));
            if self.is_made {
                state.refusals.clear();
            }
            if state.pending == 0 && !state.has_any() {
                // No connection came, and none is there to be given back.
                for error in std::mem::take(&mut state.refusals) {
                    let _ = state.queue.hand(Err(error));
                }
            }
        }
        // While the runtime ends, another task would be dropped as well.
        if self.is_finished {
            self.pool.grow();
        }
    }
}

/// A connection that is not registered in the pool yet.
type NewConnection = (PgConnection, Option<Backend>);

impl NodePool {
    /// Starts to make a connection for each caller who waits and has none pending, within the limits.
    pub(super) fn grow(self: &Arc<Self>) {
        self.connect_while(false, |state, max| {
            // An attempt that was refused is not made again for the same caller.
            let refused = state.refusals.len();
            let has_caller = state.pending as usize + refused < state.queue.len();
            has_caller && refused < max as usize && state.size < max && !state.is_full()
        });
    }

    /// Starts to make the connections that are missing from `min_connections`.
    pub(super) fn fill_up(self: &Arc<Self>) {
        let min = self.config.min_connections;
        // While callers wait, `grow` makes what they need.
        self.connect_while(true, |state, _| {
            state.size < min && state.queue.is_empty() && !state.is_full()
        });
    }

    /// Starts to make connections for as long as `wanted` says so, given the state and the pool's
    /// maximum. `yields` says that nobody waits for these, so that they give way when others do.
    fn connect_while(self: &Arc<Self>, yields: bool, wanted: impl Fn(&PoolState, u32) -> bool) {
        let count = {
            let mut state = self.state.lock();
            let before = state.pending;
            while !state.closed && wanted(&state, state.max) {
                state.size += 1;
                state.pending += 1;
            }
            state.pending - before
        };
        for _ in 0..count {
            let pending =
                PendingConnection { pool: Arc::clone(self), is_made: false, is_finished: false };
            self.spawn(make(pending, yields));
        }
    }

    /// Makes a connection, and returns it with its epoch. Returns `None` when nobody needs it any more.
    async fn connect(&self) -> Option<Result<(NewConnection, Arc<Epoch>), sqlx::Error>> {
        loop {
            let epoch = self.epoch();
            match epoch.run(self.connect_once()).await {
                Some(Ok(None)) => return None,
                // The node changed meanwhile, so the session may be set up for its former role.
                Some(Ok(Some(_))) if !self.is_in(&epoch) => {}
                Some(Ok(Some(made))) => return Some(Ok((made, epoch))),
                Some(Err(error)) => return Some(Err(error)),
                // The node went down. Callers who have come since then may find it up again.
                None if self.state.lock().queue.is_empty() => return None,
                None => {}
            }
        }
    }

    async fn connect_once(&self) -> Result<Option<NewConnection>, sqlx::Error> {
        let _permit = self.connect_permits.acquire().await.map_err(|_| self.closed_error())?;
        let is_wanted = {
            // The callers may have got connections that were given back meanwhile, or the server has
            // told another attempt that it takes no more.
            let state = self.state.lock();
            !state.is_full()
                && (state.pending as usize <= state.queue.len()
                    || state.size <= self.config.min_connections)
        };
        if !is_wanted {
            return Ok(None);
        }
        let began = Instant::now();
        let made = self.server.open_session().await?;
        self.server.metrics.created(|| began.elapsed());
        Ok(Some(made))
    }

    /// Waits until a caller has waited for a while.
    async fn until_contended(&self) {
        loop {
            let first_came = self.state.lock().queue.first_came();
            let waited = first_came.map_or(Duration::ZERO, |came| came.elapsed());
            match CONTENDED_AFTER.checked_sub(waited).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    }

    /// When a connection that is made now expires. `None` where lifetimes are unlimited.
    fn expiry(&self) -> Option<Instant> {
        let lifetime = self.config.max_lifetime;
        // Up to a tenth earlier, so that connections that were made together do not expire together.
        let jittered = lifetime.mul_f64(1.0 - fastrand::f64() * 0.1);
        (!lifetime.is_zero()).then(|| Instant::now() + jittered)
    }

    /// A connection could not be made: the first caller in the queue gets the error. If the server is only
    /// full, the callers go on waiting for a connection that is given back, as long as one may come.
    fn connect_failed(&self, error: sqlx::Error) {
        let mut state = self.state.lock();
        if refuses_more(&error) {
            tracing::debug!(node = %self.name(), %error, "the server takes no more connections; callers share those that the pool has");
            state.full_until = Some(Instant::now() + FULL_PAUSE);
            if !state.has_any() {
                // Another attempt may get the server's last place. If none does, the end of the last one
                // tells the callers.
                state.refusals.push(error);
            }
            return;
        }
        let handed = state.queue.hand(Err(error));
        drop(state);
        if let Err(Err(error)) = handed {
            tracing::debug!(node = %self.name(), %error, "a connection could not be made");
        }
    }
}

async fn make(mut pending: PendingConnection, yields: bool) {
    let pool = Arc::clone(&pending.pool);
    // Nobody needs an error at a timeout, because the callers run into the same one themselves.
    let connecting = tokio::time::timeout(pool.config.acquire_timeout, pool.connect());
    let made = tokio::select! {
        made = connecting => made.ok().flatten(),
        () = pool.closing.cancelled() => None,
        () = pool.until_contended(), if yields => None,
    };
    pending.is_finished = true;
    match made {
        Some(Ok(((connection, backend), epoch))) => {
            pending.is_made = true;
            pool.state.lock().backends.extend(backend);
            let registry: Weak<dyn Registry> = Arc::downgrade(&pool) as Weak<NodePool>;
            let registration = Registration { pool: registry, backend };
            pool.offer(Box::new(ManagedConnection {
                connection: DriverConnection::Own(connection),
                end: epoch.listener(),
                epoch,
                expires: pool.expiry(),
                is_new: true,
                has_advanced: false,
                settings: None,
                registration,
            }));
        }
        Some(Err(error)) => pool.connect_failed(error),
        None => {}
    }
}
