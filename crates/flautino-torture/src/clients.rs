//! Clients: each does one thing after the other, through whichever app process, and writes down
//! what it was told.

mod ask;
mod choose;
mod keys;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::apps::Apps;
use crate::history::{Carries, Kind, Op};

use self::ask::Asked;
pub(crate) use self::ask::NO_ANSWER;
use self::choose::Choice;
use self::keys::Keys;

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) clock: Instant,
    pub(crate) apps: Arc<Apps>,
    http: reqwest::Client,
    keys: Keys,
    ids: AtomicU64,
    /// Operations so far.
    pub(crate) count: AtomicU64,
    /// Whether clients rest, and whether they are to end.
    resting: AtomicBool,
    ending: AtomicBool,
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
            // So that quiet apps have no connections of ours.
            .pool_idle_timeout(Duration::from_secs(2))
            .build()?;
        Ok(Self {
            clock,
            apps,
            http,
            keys: Keys::default(),
            ids: AtomicU64::new(1),
            count: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            pace,
        })
    }

    /// No client begins anything new from now on, or all go on.
    pub(crate) fn rest(&self, resting: bool) {
        self.resting.store(resting, Ordering::Relaxed);
    }

    /// Every client ends after what it does now.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn ids(&self, count: usize) -> Vec<u64> {
        (0..count).map(|_| self.ids.fetch_add(1, Ordering::Relaxed)).collect()
    }

    /// What one client does until all end: its operations, in their order.
    pub(crate) async fn live(self: Arc<Self>, number: u32, seed: u64) -> Vec<Op> {
        let mut rng = fastrand::Rng::with_seed(seed ^ (u64::from(number) + 1).wrapping_mul(0x9e37));
        let carries = if number % 6 == 5 { Carries::Nothing } else { Carries::Tokens };
        let mut client = Client { number, carries, token: None, mine: Vec::new(), ops: Vec::new() };
        while !self.ending.load(Ordering::Relaxed) {
            let pause = self.pace.mul_f64(rng.f64() * 2.0);
            tokio::time::sleep(pause).await;
            if self.resting.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let Some((app, address)) = self.apps.any(&mut rng) else { continue };
            let choice = client.choose(&self, &mut rng);
            let url = format!("http://{address}/{}", choice.kind);
            let op = client.begin(&self, app, &choice);
            match self.ask(&url, &choice, client.token.as_deref()).await {
                // Nobody listened there, so nothing happened.
                Asked::NotSent => {}
                Asked::Answered(answer) => client.finish(&self, op, &choice, answer),
            }
        }
        client.ops
    }
}

/// One of them.
#[derive(Debug)]
struct Client {
    number: u32,
    carries: Carries,
    token: Option<Box<str>>,
    /// Keys that it wrote to, the latest last.
    mine: Vec<u64>,
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
            outcome: crate::history::Outcome::Unknown,
            status: 0,
            error: None,
            nodes: Box::default(),
            sent: self.token.clone(),
            given: None,
        }
    }

    fn finish(&mut self, shared: &Clients, mut op: Op, choice: &Choice, answer: ask::Answer) {
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
        if choice.kind.keeps() {
            self.mine.retain(|key| *key != choice.key);
            self.mine.push(choice.key);
            if self.mine.len() > MOST_OWN {
                self.mine.remove(0);
            }
        }
        if choice.kind != Kind::Dirty {
            shared.keys.wrote(choice.key, choice.ids.len());
        }
        shared.count.fetch_add(1, Ordering::Relaxed);
        self.ops.push(op);
    }
}

/// How many keys a client comes back to.
const MOST_OWN: usize = 4;
