//! Clients: each does one operation after the other, through any of the app processes, and records
//! what it was told.

mod ask;
mod choose;
mod keys;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::ask::{Answer, ask};
use self::choose::Choice;
use self::keys::Keys;
use crate::apps::Apps;
use crate::history::{Carries, Kind, Op, Outcome};

/// How many of the keys that it has written to a client returns to.
const MAX_OWN_KEYS: usize = 4;

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) clock: Instant,
    pub(crate) apps: Arc<Apps>,
    http: reqwest::Client,
    keys: Keys,
    /// How many operations there were so far.
    pub(crate) count: AtomicU64,
    paused: AtomicBool,
    stopping: AtomicBool,
    /// How long a client rests between two operations, on average.
    pace: Duration,
}

impl Clients {
    pub(crate) fn new(
        clock: Instant,
        apps: Arc<Apps>,
        pace: Duration,
    ) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            // Apps that are paused must have no connections of clients when their use is measured.
            .pool_idle_timeout(Duration::from_secs(2))
            .build()?;
        Ok(Self {
            clock,
            apps,
            http,
            keys: Keys::default(),
            count: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            pace,
        })
    }

    /// With `true`, no client begins another operation; with `false`, all go on.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Every client ends after its present operation.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Runs one client until it is stopped. Returns its operations, in their order.
    pub(crate) async fn run_client(self: Arc<Self>, number: u32, seed: u64) -> Vec<Op> {
        let mut rng = fastrand::Rng::with_seed(seed ^ (u64::from(number) + 1).wrapping_mul(0x9e37));
        let carries = if number % 6 == 5 { Carries::Nothing } else { Carries::Tokens };
        let mut client = Client { number, carries, token: None, own: Vec::new(), ops: Vec::new() };
        while !self.stopping.load(Ordering::Relaxed) {
            let pause = self.pace.mul_f64(rng.f64() * 2.0);
            tokio::time::sleep(pause).await;
            if self.paused.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let Some((app, address)) = self.apps.any(&mut rng) else { continue };
            let choice = Choice::random(number, &client.own, &self.keys, &mut rng);
            let url = format!("http://{address}/{}", choice.kind);
            let op = client.begin(&self, app, &choice);
            if let Some(answer) = ask(&self.http, &url, &choice, client.token.as_deref()).await {
                client.finish(&self, op, &choice, answer);
            }
        }
        client.ops
    }
}

/// The state of one client.
#[derive(Debug)]
struct Client {
    number: u32,
    carries: Carries,
    token: Option<Box<str>>,
    /// Keys that it wrote to, the latest last.
    own: Vec<u64>,
    ops: Vec<Op>,
}

impl Client {
    fn begin(&self, shared: &Clients, app: usize, choice: &Choice) -> Op {
        Op {
            client: self.number,
            carries: self.carries,
            app,
            kind: choice.kind,
            key: choice.key,
            ids: choice.ids.clone(),
            seen: Vec::new(),
            start: shared.clock.elapsed(),
            end: Duration::ZERO,
            outcome: Outcome::Unknown,
            status: 0,
            error: None,
            nodes: Box::default(),
            sent: self.token.clone(),
            given: None,
        }
    }

    fn finish(&mut self, shared: &Clients, mut op: Op, choice: &Choice, answer: Answer) {
        op.end = shared.clock.elapsed();
        op.outcome = answer.outcome;
        op.status = answer.status;
        op.error = answer.error;
        op.nodes = answer.nodes;
        op.seen = answer.seen;
        op.given = answer.token;
        if self.carries == Carries::Tokens && op.given.is_some() {
            self.token.clone_from(&op.given);
        }
        if choice.kind.commits() {
            self.own.retain(|key| *key != choice.key);
            self.own.push(choice.key);
            if self.own.len() > MAX_OWN_KEYS {
                self.own.remove(0);
            }
        }
        if choice.kind != Kind::Dirty {
            shared.keys.wrote(choice.key, choice.ids.len());
        }
        shared.count.fetch_add(1, Ordering::Relaxed);
        self.ops.push(op);
    }
}
