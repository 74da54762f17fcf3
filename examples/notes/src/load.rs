//! A bounded load, so that something moves on the page: sessions that write, and then read their own
//! writes, wherever the router sends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flautino::{Engine, Token};
use serde_json::{Value, json};

/// As many as there are rows in the table `load`.
const SESSIONS: i32 = 8;
/// Between two requests of a session.
const PAUSE: Duration = Duration::from_millis(20);
/// Every so often, a request writes before it reads.
const WRITES_EVERY: u32 = 10;
/// The load ends by itself.
const AT_MOST: Duration = Duration::from_secs(10 * 60);

#[derive(Default)]
pub(crate) struct Load {
    is_on: AtomicBool,
    /// Counts the starts, so that sessions of an earlier one end.
    starts: AtomicU64,
    reads: AtomicU64,
    failed_reads: AtomicU64,
    /// Reads that did not see what their session had written. There must be none.
    stale_reads: AtomicU64,
    writes: AtomicU64,
    failed_writes: AtomicU64,
    /// Writes that ended with their primary: the replica that took its place had not got them.
    lost_writes: AtomicU64,
}

/// One client: what it wrote last, and the token that it got for it.
struct Session {
    id: i32,
    written: i64,
    /// The node that took it.
    written_on: Option<Arc<str>>,
    token: Option<Token>,
}

impl Load {
    pub(crate) fn start(self: &Arc<Self>, engine: &Engine) {
        if self.is_on.swap(true, Ordering::Relaxed) {
            return;
        }
        let until = Instant::now() + AT_MOST;
        let start = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        for id in 0..SESSIONS {
            let (load, engine) = (Arc::clone(self), engine.clone());
            tokio::spawn(async move {
                let mut session = Session { id, written: 0, written_on: None, token: None };
                let is_current = || load.starts.load(Ordering::Relaxed) == start;
                let goes_on = || is_current() && load.is_on.load(Ordering::Relaxed);
                let mut round = 0;
                while goes_on() && engine.is_ready() && Instant::now() < until {
                    load.request(&mut session, &engine, round % WRITES_EVERY == 0).await;
                    round += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                if is_current() {
                    load.stop();
                }
            });
        }
    }

    pub(crate) fn stop(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }

    /// A request of its own, as an app would serve it: the token says what it must see.
    async fn request(&self, session: &mut Session, engine: &Engine, writes: bool) {
        let db = &engine.handle();
        if let Some(token) = &session.token {
            db.observe(token);
        }
        if writes {
            let sql = "UPDATE load SET n = n + 1 WHERE id = $1 RETURNING n";
            let written = sqlx::query_scalar(sql).bind(session.id).fetch_one(db).await;
            count(if written.is_ok() { &self.writes } else { &self.failed_writes });
            if let Ok(written) = written {
                session.written = written;
                session.written_on = db.served_by();
            }
            session.token = db.token().await;
        }
        let sql = "SELECT n FROM load WHERE id = $1";
        let read = sqlx::query_scalar::<_, i64>(sql).bind(session.id).fetch_one(db).await;
        count(if read.is_ok() { &self.reads } else { &self.failed_reads });
        let Ok(n) = read else { return };
        if n < session.written {
            // Replication is asynchronous: what only a primary had that is gone is lost to everyone.
            let is_lost = engine.status().primary.as_deref() != session.written_on.as_deref();
            count(if is_lost { &self.lost_writes } else { &self.stale_reads });
            session.written = n;
        }
    }

    pub(crate) fn figures(&self) -> Value {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "on": self.is_on.load(Ordering::Relaxed),
            "reads": of(&self.reads),
            "failed_reads": of(&self.failed_reads),
            "stale_reads": of(&self.stale_reads),
            "writes": of(&self.writes),
            "failed_writes": of(&self.failed_writes),
            "lost_writes": of(&self.lost_writes),
        })
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
