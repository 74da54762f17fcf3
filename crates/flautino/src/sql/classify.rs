//! Whether a statement needs the primary: SQL text to [`Access`].
//!
//! How a text is judged: see `judge`. In doubt it is a write. If a write is missed, a standby
//! refuses the statement. The primary then runs it, and [`Plan::rescue`] makes it a write from then
//! on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::catalogue::{Catalogue, Doubts, HiddenUse};
use super::effects::Effects;
use super::judge::{Verdict, judge};
use super::tracer::Tracer;
use super::traces::{Trusted, holds};
use super::traits::StatementTraits;
use crate::router::Access;

/// The longest text that is kept in the cache, in bytes.
const MAX_CACHED: usize = 64 * 1024;
/// How many bytes of text count as one statement in the cache, so that long texts take more of it.
const BYTES_PER_WEIGHT: u64 = 4 * 1024;

/// What is known of one statement's text.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) traits: StatementTraits,
    /// The latest verdict: the version of the catalogue that it is based on, shifted left by one,
    /// and the lowest bit set for a write. 0 before the first verdict.
    judged: AtomicU64,
    /// Whether a standby has refused the statement as a write.
    rescued: AtomicBool,
    /// What it does to its session, for the [`Tracer`].
    effects: AtomicU64,
}

impl Plan {
    pub(crate) fn of(sql: &str) -> Self {
        Self {
            traits: StatementTraits::of(sql),
            judged: AtomicU64::new(0),
            rescued: AtomicBool::new(false),
            effects: AtomicU64::new(0),
        }
    }

    /// Makes the statement a write from now on, because a standby has refused it as one.
    pub(crate) fn rescue(&self) {
        self.rescued.store(true, Ordering::Relaxed);
    }
}

/// Requests that the catalogue be read again, because a statement named a function that is not in
/// it.
type Refresh = Box<dyn Fn() + Send + Sync>;

/// Classifies statements, and remembers those it has seen.
pub(crate) struct Classifier {
    plans: Cache<Box<str>, Arc<Plan>, ByLength>,
    catalogue: ArcSwap<Catalogue>,
    doubts: Doubts,
    /// Counts the catalogues and the doubts. A verdict that is based on an earlier version does not
    /// hold any more.
    version: AtomicU64,
    refresh: Refresh,
    tracer: Arc<Tracer>,
}

/// Weighs a cached statement by the length of its text.
#[derive(Clone)]
struct ByLength;

impl Weighter<Box<str>, Arc<Plan>> for ByLength {
    fn weight(&self, text: &Box<str>, _: &Arc<Plan>) -> u64 {
        1 + text.len() as u64 / BYTES_PER_WEIGHT
    }
}

impl Classifier {
    /// A classifier whose cache holds about this many statements. Until it gets a catalogue, every
    /// call of a function counts as a write.
    pub(crate) fn new(statements: usize, refresh: Refresh) -> Self {
        Self {
            plans: Cache::with_weighter(statements, statements as u64, ByLength),
            catalogue: ArcSwap::default(),
            doubts: Doubts::default(),
            version: AtomicU64::new(1),
            refresh,
            tracer: Arc::default(),
        }
    }

    /// Functions and languages that leave nothing in a session.
    pub(crate) fn trusting(self, trusted: Trusted) -> Self {
        Self { tracer: Arc::new(Tracer::trusting(trusted)), ..self }
    }

    pub(crate) fn tracer(&self) -> &Arc<Tracer> {
        &self.tracer
    }

    /// What the statement does to its session, by its text and by the catalogue. `plan` is the plan of
    /// `sql`.
    pub(crate) fn effects(&self, plan: &Plan, sql: &str) -> Effects {
        self.tracer.effects(&plan.effects, sql)
    }

    /// The name of what the statement would hold for as long as its session lasts, if it does: a
    /// session-level lock, `LISTEN`.
    pub(crate) fn holds(&self, plan: &Plan, sql: &str) -> Option<String> {
        if holds(self.effects(plan, sql)) { self.tracer.holds(sql) } else { None }
    }

    /// The plan of this text, from the cache if it is there.
    pub(crate) fn plan(&self, sql: &str) -> Arc<Plan> {
        if let Some(plan) = self.plans.get(sql) {
            return plan;
        }
        let plan = Arc::new(Plan::of(sql));
        if sql.len() <= MAX_CACHED {
            self.plans.insert(sql.into(), Arc::clone(&plan));
        }
        plan
    }

    /// Whether the statement is a read or a write. `plan` is the plan of `sql`.
    pub(crate) fn access(&self, plan: &Plan, sql: &str) -> Access {
        if plan.rescued.load(Ordering::Relaxed) {
            return Access::Write;
        }
        let version = self.version.load(Ordering::Acquire);
        let judged = plan.judged.load(Ordering::Relaxed);
        if judged >> 1 == version {
            return if judged & 1 == 0 { Access::Read } else { Access::Write };
        }
        let verdict = self.judge(plan, sql, version);
        if verdict == Verdict::UnknownFunction {
            (self.refresh)();
        }
        if verdict == Verdict::Read { Access::Read } else { Access::Write }
    }

    /// Whether the statement is a read, by the catalogue as it was when this was last asked of it. An
    /// engine of one node has none, so there a view may hide a function that writes.
    pub(crate) fn seems_to_read(&self, plan: &Plan, sql: &str) -> bool {
        if plan.rescued.load(Ordering::Relaxed) {
            return false;
        }
        match plan.judged.load(Ordering::Relaxed) {
            0 => self.judge(plan, sql, self.version.load(Ordering::Acquire)) == Verdict::Read,
            judged => judged & 1 == 0,
        }
    }

    /// Judges the statement by the catalogue of this version, and remembers the verdict.
    fn judge(&self, plan: &Plan, sql: &str, version: u64) -> Verdict {
        let verdict = judge(sql, &plan.traits, &self.catalogue.load(), self.doubts.is_open());
        let writes = u64::from(verdict != Verdict::Read);
        plan.judged.store(version << 1 | writes, Ordering::Relaxed);
        verdict
    }

    /// From now on, what names anything that may not be PostgreSQL's own is a write, because the
    /// schema may have changed. Returns the number of this doubt.
    pub(crate) fn doubt(&self) -> u64 {
        let number = self.doubts.raise();
        self.version.fetch_add(1, Ordering::AcqRel);
        number
    }

    /// Whether there is a doubt that is not settled.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubts.is_open()
    }

    /// The number of the latest doubt. Who reads the catalogue asks for it before the reading begins.
    pub(crate) fn latest_doubt(&self) -> u64 {
        self.doubts.latest()
    }

    /// The catalogue has not changed since it was learnt: settles the doubts up to this number.
    pub(crate) fn settle(&self, doubt: u64) {
        if self.doubts.settle(doubt) {
            self.version.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Classifies by this catalogue from now on, and settles the doubts up to the number that was the
    /// latest when its reading began. Returns whether it differs from the one before.
    pub(crate) fn learn(&self, catalogue: Catalogue, doubt: u64) -> bool {
        let differs = **self.catalogue.load() != catalogue;
        if differs {
            self.catalogue.store(Arc::new(catalogue));
            self.version.fetch_add(1, Ordering::AcqRel);
        }
        self.settle(doubt);
        differs
    }

    /// What makes every query a write, as the catalogue says.
    pub(crate) fn hidden_uses(&self) -> Vec<HiddenUse> {
        self.catalogue.load().hidden.clone()
    }
}

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classifier").field("plans", &self.plans.len()).finish_non_exhaustive()
    }
}
