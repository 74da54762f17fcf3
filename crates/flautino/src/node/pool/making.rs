//! How connections are made: in tasks that outlive an impatient asker, and no more than are wanted.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::entry::{Entry, Link, Place, Places};
use super::epoch::Epoch;
use super::state::State;
use super::{NodePool, Source};
use crate::node::backend::Backend;
use crate::sqlstate::{TOO_MANY_CONNECTIONS, has_code};

/// How long a server that has no place for one more connection is not asked for one, while others
/// come back.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// A connection that is being made, counted as such until this is dropped.
struct Making {
    pool: Arc<NodePool>,
    /// It was made, and its place in the pool is its own.
    is_made: bool,
    /// It was made or not made, and not dropped half-way because the runtime ends.
    is_through: bool,
}

impl Drop for Making {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        state.making = state.making.saturating_sub(1);
        state.size = state.size.saturating_sub(u32::from(!self.is_made));
        drop(state);
        // Where the runtime ends, so would the next.
        if self.is_through {
            self.pool.grow();
        }
    }
}

/// A connection before it has a place.
type Made = (Link, Option<Backend>);

impl NodePool {
    /// Makes as many connections as those who wait need and the limits allow.
    pub(super) fn grow(self: &Arc<Self>) {
        self.make_while(false, |state, max| {
            // A server that is full may still have lent all that it has to this pool.
            let is_full = state.full_until.is_some_and(|until| Instant::now() < until);
            (state.making as usize) < state.waiting.len()
                && state.size < max
                && !(is_full && state.size > state.making)
        });
    }

    /// Makes what is missing of the minimum.
    pub(super) fn fill_up(self: &Arc<Self>) {
        let min = self.config.min_connections;
        self.make_while(true, |state, _| state.size < min);
    }

    /// `yields` tells whether nobody waits for these, so that they make way where they hang.
    fn make_while(self: &Arc<Self>, yields: bool, wanted: impl Fn(&State, u32) -> bool) {
        let count = {
            let mut state = self.state.lock();
            let before = state.making;
            while !state.closed && wanted(&state, self.max()) {
                state.size += 1;
                state.making += 1;
            }
            state.making - before
        };
        for _ in 0..count {
            let making = Making { pool: Arc::clone(self), is_made: false, is_through: false };
            self.spawn(make(making, yields));
        }
    }

    /// One connection; `None` where it is not wanted any more.
    async fn connect(&self) -> Option<Result<(Made, Arc<Epoch>), sqlx::Error>> {
        loop {
            let epoch = self.epoch();
            match epoch.run(self.connect_once()).await {
                Some(Ok(None)) => return None,
                // Made while the node became another: it may be set up for another role.
                Some(Ok(Some(_))) if !epoch.is(&self.epoch()) => {}
                Some(Ok(Some(made))) => return Some(Ok((made, epoch))),
                Some(Err(error)) => return Some(Err(error)),
                // The node turned down. Who asks since then may find it up again.
                None if self.state.lock().waiting.is_empty() => return None,
                None => {}
            }
        }
    }

    async fn connect_once(&self) -> Result<Option<Made>, sqlx::Error> {
        let _turn = self.connecting.acquire().await.map_err(|_| self.closed())?;
        let is_wanted = {
            // Those who wait may have got others meanwhile.
            let state = self.state.lock();
            state.making as usize <= state.waiting.len()
                || state.size <= self.config.min_connections
        };
        if !is_wanted {
            return Ok(None);
        }
        if let Source::Pool(pool) = &self.source {
            return match pool.acquire().await {
                Ok(connection) => Ok(Some((Link::Borrowed(Box::new(connection)), None))),
                // By somebody else who has it.
                Err(sqlx::Error::PoolClosed) => Err(self.closed()),
                Err(error) => Err(error),
            };
        }
        let (connection, backend) = self.server.open_session().await?;
        Ok(Some((Link::Own(connection), backend)))
    }

    fn expiry(&self) -> Option<Instant> {
        let lifetime = self.config.max_lifetime;
        // A little earlier by chance, so that what was made together does not end together.
        let jittered = lifetime.mul_f64(1.0 - fastrand::f64() * 0.1);
        (!lifetime.is_zero()).then(|| Instant::now() + jittered)
    }

    /// A connection could not be made: the one who waits longest is told why. Where the server only has
    /// no place for one more, those who wait get what is given back.
    fn not_made(&self, error: sqlx::Error) {
        let mut state = self.state.lock();
        if has_code(&error, TOO_MANY_CONNECTIONS) && state.size > state.making {
            state.full_until = Some(Instant::now() + FULL_PAUSE);
            tracing::debug!(node = %self.name(), %error, "the server is full; its connections are shared");
            return;
        }
        let mut answer = Err(error);
        while let Some(waiter) = state.waiting.pop_front() {
            match waiter.send(answer) {
                Ok(()) => return,
                Err(unclaimed) => answer = unclaimed,
            }
        }
        drop(state);
        if let Err(error) = answer {
            tracing::debug!(node = %self.name(), %error, "a connection could not be made");
        }
    }
}

async fn make(mut making: Making, yields: bool) {
    let pool = Arc::clone(&making.pool);
    // Those who wait have the same bound, and are told by it.
    let connecting = tokio::time::timeout(pool.config.acquire_timeout, pool.connect());
    let made = tokio::select! {
        made = connecting => made.ok().flatten(),
        () = pool.closing.cancelled() => None,
        () = pool.crowded.notified(), if yields => None,
    };
    making.is_through = true;
    match made {
        Some(Ok(((link, backend), epoch))) => {
            making.is_made = true;
            pool.state.lock().backends.extend(backend);
            let home: Weak<dyn Places> = Arc::downgrade(&pool) as Weak<NodePool>;
            let place = Place { pool: home, backend };
            pool.take_in(Entry { link, epoch, expires: pool.expiry(), is_new: true, place });
        }
        Some(Err(error)) => pool.not_made(error),
        None => {}
    }
}
