//! The clients of the load: in this process, and over HTTP.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flautino::{Engine, Handle, Transaction, TransactionOptions};
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;

use super::carrier::Carrier;
use super::op::{Failure, Op, Way};

/// Between two steps of a client, so that many of them fit on one core.
const PAUSE: Duration = Duration::from_millis(4);
/// How many writes ago an earlier token was made.
const EARLIER: usize = 20;
/// The id of no row.
const NOBODY: i64 = -1;

/// What all clients share.
pub(super) struct Clients {
    engine: Engine,
    url: String,
    http: reqwest::Client,
    pub(super) stop: AtomicBool,
    next_id: AtomicI64,
    /// Successful ones.
    pub(super) reads: AtomicUsize,
    pub(super) writes: AtomicUsize,
    pub(super) ops: Mutex<Vec<Op>>,
}

impl Clients {
    /// The ids begin with `first`.
    pub(super) fn new(engine: &Engine, url: &str, first: i64) -> Arc<Self> {
        Arc::new(Self {
            engine: engine.clone(),
            url: url.to_owned(),
            http: reqwest::Client::new(),
            stop: AtomicBool::new(false),
            next_id: AtomicI64::new(first),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            ops: Mutex::default(),
        })
    }

    pub(super) fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for way in [Way::Read, Way::Read, Way::SlowRead, Way::RowsRead, Way::HttpRead] {
            clients.spawn(Arc::clone(self).reader(way));
        }
        for way in [Way::Write, Way::Transaction, Way::Closure] {
            clients.spawn(Arc::clone(self).session(way));
        }
        clients.spawn(Arc::clone(self).writer());
        for way in [Way::HttpWrite, Way::HttpTx] {
            clients.spawn(Arc::clone(self).browser(way));
        }
        clients
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn new_id(&self) -> i64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Records an operation that has just ended. `db` is the handle that it ran on, if any.
    fn record(
        &self,
        way: Way,
        id: i64,
        started: Instant,
        db: Option<&Handle>,
        result: Result<i64, Failure>,
    ) {
        if result.is_ok() {
            let counter = if way.is_read() { &self.reads } else { &self.writes };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let node = db.and_then(Handle::served_by);
        let op = Op { way, id, started, took: started.elapsed(), node, result };
        self.ops.lock().unwrap().push(op);
    }

    /// Reads of new sessions.
    async fn reader(self: Arc<Self>, way: Way) {
        while self.goes_on() {
            let started = Instant::now();
            if way == Way::HttpRead {
                let found = self.get(NOBODY, &mut Carrier::Nothing(self.http.clone())).await;
                self.record(way, NOBODY, started, None, found);
            } else {
                let db = self.engine.handle();
                let found = read(&db, way).await;
                self.record(way, NOBODY, started, Some(&db), found);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes of new sessions.
    async fn writer(self: Arc<Self>) {
        while self.goes_on() {
            self.write(&self.engine.handle(), Way::Write).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes a new id, and returns it.
    async fn write(&self, db: &Handle, way: Way) -> i64 {
        let (id, started) = (self.new_id(), Instant::now());
        let written = write(db, way, id).await;
        self.record(way, id, started, Some(db), written.map(|()| 0).map_err(Failure::Sql));
        id
    }

    /// Sessions that write and look for what they wrote, with their own handle, with a token, and
    /// with a token that is older, which replicas have reached.
    async fn session(self: Arc<Self>, way: Way) {
        let mut earlier = VecDeque::new();
        while self.goes_on() {
            let db = self.engine.handle();
            let id = self.write(&db, way).await;
            self.look_for(&db, id, Way::SessionRead).await;
            if let Some(token) = db.token().await {
                let other = self.engine.handle();
                other.observe(&token);
                self.look_for(&other, id, Way::TokenRead).await;
                earlier.push_back((id, token));
            }
            if earlier.len() > EARLIER {
                let (id, token) = earlier.pop_front().unwrap();
                let other = self.engine.handle();
                other.observe(&token);
                self.look_for(&other, id, Way::EarlierRead).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn look_for(&self, db: &Handle, id: i64, way: Way) {
        let started = Instant::now();
        let sql = "SELECT count(*) FROM entries WHERE id = $1";
        let found = sqlx::query_scalar(sql).bind(id).fetch_one(db).await;
        self.record(way, id, started, Some(db), found.map_err(Failure::Sql));
    }

    /// As sessions, over HTTP: clients that carry their token, in a header or as cookies.
    async fn browser(self: Arc<Self>, way: Way) {
        let mut carrier = match way {
            Way::HttpTx => Carrier::with_cookies(),
            _ => Carrier::Header(self.http.clone(), None),
        };
        while self.goes_on() {
            let (id, started) = (self.new_id(), Instant::now());
            let path = if way == Way::HttpTx { "tx" } else { "ids" };
            let written = self.post(path, id, &mut carrier).await;
            self.record(way, id, started, None, written);
            let started = Instant::now();
            let found = self.get(id, &mut carrier).await;
            self.record(Way::HttpTokenRead, id, started, None, found);
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn post(&self, path: &str, id: i64, carrier: &mut Carrier) -> Result<i64, Failure> {
        let request = carrier.http().post(format!("{}/{path}/{id}", self.url));
        carrier.send(request).await.map(|_| 0)
    }

    async fn get(&self, id: i64, carrier: &mut Carrier) -> Result<i64, Failure> {
        let request = carrier.http().get(format!("{}/ids/{id}", self.url));
        let body = carrier.send(request).await?;
        body.parse().map_err(|_| Failure::Wrong(body))
    }
}

/// Reads what nobody has written. Returns how many rows there were.
async fn read(db: &Handle, way: Way) -> Result<i64, Failure> {
    let (rows, expected) = match way {
        Way::SlowRead => {
            let sql = "SELECT 1 FROM (SELECT pg_sleep(0.02)) AS slept";
            (sqlx::query_scalar::<_, i32>(sql).fetch_all(db).await?, 1)
        }
        Way::RowsRead => {
            let sql = "SELECT generate_series(1, 100)";
            (sqlx::query_scalar(sql).fetch_all(db).await?, 100)
        }
        _ => {
            let sql = format!("SELECT count(*) FROM entries WHERE id = {NOBODY}");
            return Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await?);
        }
    };
    if rows.len() == expected {
        return Ok(0);
    }
    Err(Failure::Wrong(format!("{} in place of {expected} rows", rows.len())))
}

/// Stores an id.
async fn write(db: &Handle, way: Way, id: i64) -> Result<(), sqlx::Error> {
    const INSERT: &str = "INSERT INTO entries VALUES ($1)";
    match way {
        Way::Transaction => {
            let mut transaction = db.begin().await?;
            sqlx::query(INSERT).bind(id).execute(&mut transaction).await?;
            transaction.commit().await
        }
        Way::Closure => {
            let options = TransactionOptions { retries: 3, ..TransactionOptions::default() };
            let work = async move |tx: &mut Transaction| -> Result<(), sqlx::Error> {
                sqlx::query(INSERT).bind(id).execute(tx).await.map(drop)
            };
            db.transaction_with(options, work).await
        }
        _ => sqlx::query(INSERT).bind(id).execute(db).await.map(drop),
    }
}
