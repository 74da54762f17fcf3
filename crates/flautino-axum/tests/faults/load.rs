//! Load that never stops, and the ledger of what became of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flautino::{Engine, Error, Handle, Transaction, TransactionOptions};
use flautino_cluster::Node;
use flautino_lab::{sqlstate, wait_until};
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;

use crate::common::{DOWN_WITHIN, Rig, SLACK};
use crate::pulse::Pulse;

/// Between two steps of a client, so that many of them fit on one core.
const PAUSE: Duration = Duration::from_millis(4);
/// How many writes ago an earlier token was made.
const EARLIER: usize = 20;
/// Ids of no row.
const NOBODY: i64 = -1;

/// How something was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// A read of a new session.
    Read,
    /// A read that takes a while.
    SlowRead,
    /// A read of many rows.
    RowsRead,
    /// A read of the session that wrote.
    SessionRead,
    /// A read of another session with the token of the one that wrote.
    TokenRead,
    /// The same, of one that wrote a while ago.
    EarlierRead,
    /// A read over HTTP.
    HttpRead,
    /// A read over HTTP with the token of an earlier response.
    HttpTokenRead,
    /// One statement.
    Write,
    /// `begin`, a statement, `commit`.
    Transaction,
    /// The closure form, which may be retried.
    Closure,
    /// One statement, over HTTP.
    HttpWrite,
    /// `Tx`, over HTTP.
    HttpTx,
}

impl Way {
    /// Whether it is a read of a session that need not see anything in particular.
    pub(crate) fn is_free_read(self) -> bool {
        matches!(self, Self::Read | Self::SlowRead | Self::RowsRead | Self::HttpRead)
    }

    pub(crate) fn is_read(self) -> bool {
        use Way::*;
        matches!(
            self,
            Read | SlowRead
                | RowsRead
                | SessionRead
                | TokenRead
                | EarlierRead
                | HttpRead
                | HttpTokenRead
        )
    }
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum End {
    Done,
    /// It was answered, and the answer is not the truth.
    Wrong(#[expect(dead_code, reason = "shown where a test fails")] String),
    Failed(Failure),
}

/// Why it failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Sql(sqlx::Error),
    Status {
        status: u16,
        headers: HeaderMap,
        #[expect(dead_code, reason = "shown where a test fails")]
        body: String,
    },
    /// There was no response.
    Client(#[expect(dead_code, reason = "shown where a test fails")] reqwest::Error),
}

impl Failure {
    /// A word for the kind of it, to count by.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Sql(error) => match Error::of(error) {
                Some(own) => {
                    let text = format!("{own:?}");
                    let end = text.find([' ', '(', '{']).unwrap_or(text.len());
                    let sent = if text.contains("sent: true") { " sent" } else { "" };
                    format!("{}{sent}", &text[..end])
                }
                None => match sqlstate(error) {
                    code if code.is_empty() => format!("{error:?}").chars().take(60).collect(),
                    code => code,
                },
            },
            Self::Status { status, headers, .. } => {
                let retry = if headers.contains_key(RETRY_AFTER) { " Retry-After" } else { "" };
                format!("{status}{retry}")
            }
            Self::Client(_) => "no response".to_owned(),
        }
    }
}

/// One read or write.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) way: Way,
    /// What was written; of a read, nobody.
    pub(crate) id: i64,
    pub(crate) started: Instant,
    pub(crate) took: Duration,
    /// The node that answered, where that is known.
    pub(crate) node: Option<Arc<str>>,
    pub(crate) end: End,
}

impl Op {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.end, End::Done)
    }

    pub(crate) fn ended(&self) -> Instant {
        self.started + self.took
    }

    /// Whether it was told that there is no primary, over HTTP with 503 and when to come again.
    pub(crate) fn found_no_primary(&self) -> bool {
        matches!(&*self.kind(), "NoPrimary" | "503 Retry-After")
    }

    /// A word for its failure, empty where it did not fail.
    pub(crate) fn kind(&self) -> String {
        match &self.end {
            End::Done => String::new(),
            End::Wrong(_) => "wrong".to_owned(),
            End::Failed(failure) => failure.kind(),
        }
    }
}

struct Shared {
    engine: Engine,
    url: String,
    http: reqwest::Client,
    stop: AtomicBool,
    next: AtomicI64,
    /// Successful ones.
    reads: AtomicUsize,
    writes: AtomicUsize,
    ops: Mutex<Vec<Op>>,
}

/// Clients of all kinds that read and write until they are told to stop.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    pub(crate) pulse: Pulse,
    started: Instant,
}

impl Load {
    pub(crate) fn start(rig: &Rig) -> Self {
        Self::of(&rig.engine, &rig.app.url, 1)
    }

    /// The ids begin with `first`.
    pub(crate) fn of(engine: &Engine, url: &str, first: i64) -> Self {
        let shared = Arc::new(Shared {
            engine: engine.clone(),
            url: url.to_owned(),
            http: reqwest::Client::new(),
            stop: AtomicBool::new(false),
            next: AtomicI64::new(first),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            ops: Mutex::default(),
        });
        let mut clients = JoinSet::new();
        for way in [Way::Read, Way::Read, Way::SlowRead, Way::RowsRead, Way::HttpRead] {
            clients.spawn(Arc::clone(&shared).reader(way));
        }
        for way in [Way::Write, Way::Transaction, Way::Closure] {
            clients.spawn(Arc::clone(&shared).session(way));
        }
        clients.spawn(Arc::clone(&shared).writer());
        for way in [Way::HttpWrite, Way::HttpTx] {
            clients.spawn(Arc::clone(&shared).browser(way));
        }
        Self { shared, clients, pulse: Pulse::start(), started: Instant::now() }
    }

    /// Waits until this many more reads and writes have been answered.
    pub(crate) async fn until_more(&self, reads: usize, writes: usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let reads = count(&self.shared.reads) + reads;
        let writes = count(&self.shared.writes) + writes;
        let what = format!("{reads} reads and {writes} writes are answered");
        wait_until(&what, async || {
            count(&self.shared.reads) >= reads && count(&self.shared.writes) >= writes
        })
        .await;
    }

    /// Enough of each kind to count with.
    pub(crate) async fn a_while(&self) {
        self.until_more(400, 80).await;
    }

    /// As [`a_while`](Self::a_while), of reads only.
    pub(crate) async fn a_while_of_reads(&self) {
        self.until_more(400, 0).await;
    }

    /// How many writes have been answered so far.
    pub(crate) fn writes(&self) -> usize {
        self.shared.writes.load(Ordering::Relaxed)
    }

    /// How many writes that began since then have failed.
    pub(crate) fn failed_writes_since(&self, moment: Instant) -> usize {
        let ops = self.shared.ops.lock().unwrap();
        let began = ops.iter().filter(|op| op.started > moment && !op.way.is_read());
        began.filter(|op| !op.is_done()).count()
    }

    /// Lets every client finish what it does.
    pub(crate) async fn stop(mut self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let ops = std::mem::take(&mut *self.shared.ops.lock().unwrap());
        let tally = Tally { ops, pulse: self.pulse };
        let stalled = tally.pulse.stalled(self.started, Instant::now());
        println!("{tally}the machine stalled for {stalled:?}");
        tally
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn next_id(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn note(&self, op: Op) {
        if op.is_done() {
            let counter = if op.way.is_read() { &self.reads } else { &self.writes };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.ops.lock().unwrap().push(op);
    }

    /// Reads of new sessions.
    async fn reader(self: Arc<Self>, way: Way) {
        while self.goes_on() {
            let started = Instant::now();
            if way == Way::HttpRead {
                let end = self.get(NOBODY, &mut None, |found| found == 0).await;
                self.note(op(way, NOBODY, started, None, end));
            } else {
                let db = self.engine.handle();
                let end = match read_some(&db, way).await {
                    Ok(right) if right => End::Done,
                    Ok(_) => End::Wrong("another answer than the query has".to_owned()),
                    Err(error) => End::Failed(Failure::Sql(error)),
                };
                self.note(op(way, NOBODY, started, db.served_by(), end));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes of new sessions.
    async fn writer(self: Arc<Self>) {
        while self.goes_on() {
            self.write_one(&self.engine.handle(), Way::Write).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The id, and whether it was stored for certain.
    async fn write_one(&self, db: &Handle, way: Way) -> (i64, bool) {
        let (id, started) = (self.next_id(), Instant::now());
        let written = write(db, way, id).await;
        let is_there = written.is_ok();
        let end = written.map_or_else(|error| End::Failed(Failure::Sql(error)), |()| End::Done);
        self.note(op(way, id, started, db.served_by(), end));
        (id, is_there)
    }

    /// Sessions that write and look for what they wrote, with their own handle, with a token, and
    /// with a token that is older, which replicas have reached.
    async fn session(self: Arc<Self>, way: Way) {
        let mut earlier = VecDeque::new();
        while self.goes_on() {
            let db = self.engine.handle();
            let (id, is_there) = self.write_one(&db, way).await;
            self.look_for(&db, id, is_there, Way::SessionRead).await;
            if let Some(token) = db.token().await {
                let other = self.engine.handle();
                other.observe(&token);
                self.look_for(&other, id, is_there, Way::TokenRead).await;
                earlier.push_back((id, is_there, token));
            }
            if earlier.len() > EARLIER {
                let (id, is_there, token) = earlier.pop_front().unwrap();
                let other = self.engine.handle();
                other.observe(&token);
                self.look_for(&other, id, is_there, Way::EarlierRead).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn look_for(&self, db: &Handle, id: i64, is_there: bool, way: Way) {
        let started = Instant::now();
        let sql = "SELECT count(*) FROM entries WHERE id = $1";
        let found = sqlx::query_scalar::<_, i64>(sql).bind(id).fetch_one(db).await;
        let end = match found {
            // One that failed may have been done.
            Ok(1) => End::Done,
            Ok(0) if !is_there => End::Done,
            Ok(found) => End::Wrong(format!("{found} rows of id {id}")),
            Err(error) => End::Failed(Failure::Sql(error)),
        };
        self.note(op(way, NOBODY, started, db.served_by(), end));
    }

    /// As sessions, over HTTP: a client that carries its token.
    async fn browser(self: Arc<Self>, way: Way) {
        let mut token = None;
        while self.goes_on() {
            let (id, started) = (self.next_id(), Instant::now());
            let path = if way == Way::HttpTx { "tx" } else { "ids" };
            let end = self.post(path, id, &mut token).await;
            let is_there = matches!(end, End::Done);
            self.note(op(way, id, started, None, end));
            let started = Instant::now();
            let right = |found| found == 1 || found == 0 && !is_there;
            let end = self.get(id, &mut token, right).await;
            self.note(op(Way::HttpTokenRead, NOBODY, started, None, end));
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn post(&self, path: &str, id: i64, token: &mut Option<HeaderValue>) -> End {
        let request = self.http.post(format!("{}/{path}/{id}", self.url));
        match self.send(request, token).await {
            Ok(_) => End::Done,
            Err(failure) => End::Failed(failure),
        }
    }

    async fn get(
        &self,
        id: i64,
        token: &mut Option<HeaderValue>,
        right: impl Fn(i64) -> bool,
    ) -> End {
        let request = self.http.get(format!("{}/ids/{id}", self.url));
        match self.send(request, token).await {
            Ok(body) if body.parse().is_ok_and(&right) => End::Done,
            Ok(body) => End::Wrong(format!("{body} rows of id {id}")),
            Err(failure) => End::Failed(failure),
        }
    }

    async fn send(
        &self,
        mut request: reqwest::RequestBuilder,
        token: &mut Option<HeaderValue>,
    ) -> Result<String, Failure> {
        const TOKEN: &str = "flautino-token";
        if let Some(token) = token {
            request = request.header(TOKEN, token.clone());
        }
        let response = request.send().await.map_err(Failure::Client)?;
        if let Some(new) = response.headers().get(TOKEN) {
            *token = Some(new.clone());
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.text().await.map_err(Failure::Client)?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(Failure::Status { status: status.as_u16(), headers, body })
        }
    }
}

fn op(way: Way, id: i64, started: Instant, node: Option<Arc<str>>, end: End) -> Op {
    Op { way, id, started, took: started.elapsed(), node, end }
}

/// Whether the answer is right.
async fn read_some(db: &Handle, way: Way) -> Result<bool, sqlx::Error> {
    match way {
        Way::SlowRead => {
            let sql = "SELECT count(*) FROM (SELECT pg_sleep(0.02)) AS slept";
            Ok(sqlx::query_scalar::<_, i64>(sql).fetch_one(db).await? == 1)
        }
        Way::RowsRead => {
            let rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 100)");
            Ok(rows.fetch_all(db).await?.len() == 100)
        }
        _ => {
            let sql = format!("SELECT count(*) FROM entries WHERE id = {NOBODY}");
            let found: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await?;
            Ok(found == 0)
        }
    }
}

/// Stores an id.
pub(crate) async fn write(db: &Handle, way: Way, id: i64) -> Result<(), sqlx::Error> {
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

/// All that was read and written.
pub(crate) struct Tally {
    pub(crate) ops: Vec<Op>,
    pub(crate) pulse: Pulse,
}

impl Tally {
    pub(crate) fn reads(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| op.way.is_read())
    }

    pub(crate) fn writes(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| !op.way.is_read())
    }

    /// Reads that any replica may serve were answered, rightly and without waiting.
    pub(crate) fn assert_free_reads_untouched(&self) {
        let free = || self.reads().filter(|op| op.way.is_free_read());
        assert_none("reads", free().filter(|op| !op.is_done()));
        assert_none("slow reads", free().filter(|op| self.was_slow(op, DOWN_WITHIN)));
    }

    /// Whether it took longer than that, and the machine did not stall meanwhile.
    pub(crate) fn was_slow(&self, op: &Op, most: Duration) -> bool {
        op.took > most && self.pulse.stalled(op.started, op.ended()).is_zero()
    }

    /// Every read was answered, and rightly.
    pub(crate) fn assert_no_read_failed(&self) {
        assert_none("reads", self.reads().filter(|op| !op.is_done()));
    }

    pub(crate) fn assert_no_write_failed(&self) {
        assert_none("writes", self.writes().filter(|op| !op.is_done()));
    }

    /// No write failed, and none waited until some node was known to be down; most took as long as
    /// ever.
    pub(crate) fn assert_writes_untouched(&self) {
        self.assert_no_write_failed();
        assert_none("slow writes", self.writes().filter(|op| self.was_slow(op, DOWN_WITHIN)));
        let slow = self.writes().filter(|op| self.was_slow(op, SLACK)).count();
        assert!(slow * 100 <= self.writes().count(), "{slow} writes were slow");
    }

    /// Both as one.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.ops.extend(other.ops);
        self
    }

    /// The node has each acknowledged write once, and each other at the most once.
    pub(crate) async fn assert_ledger(&self, node: &Node) {
        let mut connection = node.connect().await.unwrap();
        let sql = "SELECT id, count(*) FROM entries GROUP BY id";
        let rows: Vec<(i64, i64)> = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
        let mut stored: BTreeMap<i64, i64> = rows.into_iter().collect();
        let (mut lost, mut twice) = (Vec::new(), Vec::new());
        for op in self.writes() {
            match stored.remove(&op.id) {
                Some(1) => {}
                Some(_) => twice.push(op),
                None if op.is_done() => lost.push(op),
                None => {}
            }
        }
        assert_none("lost writes", lost.into_iter());
        assert_none("writes done more than once", twice.into_iter());
        assert!(stored.is_empty(), "nobody wrote these: {stored:?}");
    }
}

pub(crate) fn assert_none<'a>(what: &str, ops: impl Iterator<Item = &'a Op>) {
    let ops: Vec<_> = ops.collect();
    assert!(ops.is_empty(), "{} {what}, such as {:#?}", ops.len(), &ops[..ops.len().min(4)]);
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds: BTreeMap<(Way, String), (usize, Duration)> = BTreeMap::new();
        for op in &self.ops {
            let (count, longest) = kinds.entry((op.way, op.kind())).or_default();
            *count += 1;
            *longest = op.took.max(*longest);
        }
        for ((way, kind), (count, longest)) in kinds {
            let kind = if kind.is_empty() { "answered" } else { &kind };
            writeln!(f, "{way:?}: {count} {kind}, the longest {longest:?}")?;
        }
        Ok(())
    }
}

/// A primary and two replicas after a failover under load that lost nothing, and what the load saw.
pub(crate) async fn failed_over(name: &str) -> (Rig, Tally) {
    let rig = Rig::start(name, 2).await;
    rig.lose_nothing().await;
    let load = Load::start(&rig);
    load.a_while().await;
    rig.fail_over(&load).await;
    load.a_while().await;
    let tally = load.stop().await;
    tally.assert_no_read_failed();
    (rig, tally)
}
