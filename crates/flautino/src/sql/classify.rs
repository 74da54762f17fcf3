//! Whether a statement needs the primary: SQL text to [`Access`].
//!
//! A statement is a read only if three checks agree:
//!
//! - its traits: there is one command, and nothing that may stay in the session;
//! - its tokens: there is no word that writes, and no function, view or operator that the server's
//!   catalogue calls volatile;
//! - its parsed tree: the statement is of a kind that reads, and the catalogue knows every function
//!   in it.
//!
//! In doubt it is a write. If all three miss a write, such as a volatile function in a cast, a
//! standby refuses the statement. The primary then runs it, and [`Plan::rescue`] makes it a write
//! from then on.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sqlparser::ast::{Expr, ObjectName, Query, Select, SetExpr, TableFactor, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::effects::Effects;
use super::lexer::{Token, Tokens};
use super::names::{self, Name, StatementKind};
use super::tracer::Tracer;
use super::traces::{Trusted, holds};
use super::traits::StatementTraits;
use crate::router::Access;

/// The longest text that is parsed, in bytes. A longer one counts as a write, since parsing it
/// would hold up other requests.
const MAX_TEXT: usize = 64 * 1024;
/// The most tokens of a text that is parsed. Each operator of a chain nests the tree one level
/// deeper, and dropping the tree recurses through all levels.
const MAX_TOKENS: usize = 8_000;
/// The stack on which such a tree is parsed, walked and dropped, in bytes. In a debug build the
/// parser needs some 40 kB for each of the 50 levels that it allows, and dropping a tree of
/// [`MAX_TOKENS`] tokens needs 4 MB.
const STACK: usize = 16 << 20;
/// The longest name that the server keeps whole, in bytes: `NAMEDATALEN` - 1.
const MAX_NAME: usize = 63;
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

/// What the server's catalogue says about names, as far as reads and writes depend on it. All names
/// are without their schema.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// The names of all functions.
    pub(crate) functions: HashSet<Box<str>>,
    /// Names under which there is a volatile function.
    pub(crate) volatile: HashSet<Box<str>>,
    /// Names that make a statement a write wherever they stand in it: the user's own volatile
    /// functions, since `row.function` calls them too, and views, tables and types that lead to a
    /// volatile function.
    pub(crate) anywhere: HashSet<Box<str>>,
    /// Operators that call a volatile function.
    pub(crate) operators: Vec<Box<str>>,
}

/// Requests that the catalogue be read again, because a statement named a function that is not in
/// it.
type Refresh = Box<dyn Fn() + Send + Sync>;

/// Classifies statements, and remembers those it has seen.
pub(crate) struct Classifier {
    plans: Cache<Box<str>, Arc<Plan>, ByLength>,
    catalogue: ArcSwap<Catalogue>,
    /// Counts the catalogues. A verdict that is based on an earlier one does not hold any more.
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

    /// Whether the statement may leave something in its session.
    pub(crate) fn may_change_session(&self, plan: &Plan, sql: &str) -> bool {
        plan.traits.may_change_session
            || self.effects(plan, sql).any(Effects::CHANGES | Effects::SPOILS)
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
        if sql.len() <= MAX_TEXT {
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
        let catalogue = self.catalogue.load();
        let judging = || judge(sql, &plan.traits, &catalogue);
        let verdict = stacker::maybe_grow(STACK / 2, STACK, judging);
        if verdict == Verdict::UnknownFunction {
            (self.refresh)();
        }
        let writes = u64::from(verdict != Verdict::Read);
        plan.judged.store(version << 1 | writes, Ordering::Relaxed);
        if writes == 0 { Access::Read } else { Access::Write }
    }

    /// Classifies by this catalogue from now on. Returns whether it differs from the one before.
    pub(crate) fn learn(&self, catalogue: Catalogue) -> bool {
        if **self.catalogue.load() == catalogue {
            return false;
        }
        self.catalogue.store(Arc::new(catalogue));
        self.version.fetch_add(1, Ordering::AcqRel);
        true
    }
}

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classifier").field("plans", &self.plans.len()).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Read,
    Write,
    /// A write until the catalogue is read again: the statement calls a function that is not in it.
    UnknownFunction,
}

/// Classifies a text by the three checks that the module describes.
fn judge(sql: &str, traits: &StatementTraits, catalogue: &Catalogue) -> Verdict {
    if sql.len() > MAX_TEXT
        || traits.multiple_commands
        || traits.control.is_some()
        || traits.may_change_session
    {
        return Verdict::Write;
    }
    let explains = match read_tokens(sql, catalogue) {
        Some(kind) => kind == StatementKind::Explain,
        None => return Verdict::Write,
    };
    let Ok(statements) = Parser::parse_sql(&PostgreSqlDialect {}, sql) else {
        return Verdict::Write;
    };
    let [statement] = &statements[..] else { return Verdict::Write };
    use sqlparser::ast::Statement as Parsed;
    match statement {
        Parsed::Query(_) if !explains => {}
        // `EXPLAIN` without `ANALYZE` plans the statement and does not run it.
        Parsed::Explain { analyze: false, statement, .. } if explains => {
            let planned = matches!(
                **statement,
                Parsed::Query(_)
                    | Parsed::Insert(_)
                    | Parsed::Update { .. }
                    | Parsed::Delete(_)
                    | Parsed::Merge { .. }
            );
            return if planned { Verdict::Read } else { Verdict::Write };
        }
        Parsed::ShowVariable { .. } => return Verdict::Read,
        _ => return Verdict::Write,
    }
    match statement.visit(&mut Reader { catalogue }) {
        ControlFlow::Break(verdict) => verdict,
        ControlFlow::Continue(()) => Verdict::Read,
    }
}

/// The kind of statement, by its first word. `None` if a token makes it a write.
fn read_tokens(sql: &str, catalogue: &Catalogue) -> Option<StatementKind> {
    let mut kind = None;
    let mut last: Option<Name<'_>> = None;
    let (mut before, mut before_that) = ("", "");
    let mut operator: Option<std::ops::Range<usize>> = None;
    for (count, (token, place)) in Tokens::of(sql).enumerate() {
        if count >= MAX_TOKENS {
            return None;
        }
        let text = &sql[place.clone()];
        let is_operator =
            token == Token::Other && text.bytes().all(|byte| names::OPERATOR.contains(&byte));
        if is_operator && !catalogue.operators.is_empty() {
            let run = match operator.take() {
                Some(run) if run.end == place.start => run.start..place.end,
                _ => place,
            };
            let written = &sql[run.clone()];
            // The lexer does not tell adjacent operators apart. So a run of operator characters
            // that contains a volatile operator counts as a write.
            if catalogue.operators.iter().any(|operator| written.contains(&**operator)) {
                return None;
            }
            operator = Some(run);
        }
        if text == "("
            && kind != Some(StatementKind::Explain)
            && last.is_some_and(|name| may_write(name, catalogue))
        {
            return None;
        }
        // `(value).function` and `$1.function` call the function too.
        let is_called = before == "." && before_that.starts_with([')', ']', '$']);
        (before_that, before) = (before, text);
        let name = Name::of(token);
        if let Some(name) = name {
            if is_called && kind != Some(StatementKind::Explain) && may_write(name, catalogue) {
                return None;
            }
            if kind.is_none() {
                kind = Some(names::kind_of(name)?);
            }
            let planned = kind == Some(StatementKind::Explain) && count > 0;
            // The server truncates long names, and the truncated name may be that of a function
            // that writes.
            if name.is_unicode()
                || text.len() > MAX_NAME
                || name.is_in(&catalogue.anywhere) && !planned
                || name.has(names::describes_the_server) && !planned
                || names::writes(name, last) && !planned
                || planned && names::runs(name)
            {
                return None;
            }
        } else if kind.is_none() && text != "(" {
            return None;
        }
        last = name;
    }
    kind
}

/// Whether a function of that name may write.
fn may_write(name: Name<'_>, catalogue: &Catalogue) -> bool {
    name.is_in(&catalogue.volatile) || name.has(names::always_writes)
}

/// Walks over the parsed statement, and stops with the verdict if it is not a read.
struct Reader<'a> {
    catalogue: &'a Catalogue,
}

impl Reader<'_> {
    /// Judges the call of a function.
    fn judge_call(&self, name: &ObjectName) -> ControlFlow<Verdict> {
        let Some(last) = name.0.last().and_then(|part| part.as_ident()) else {
            return ControlFlow::Break(Verdict::Write);
        };
        let folded;
        let bare: &str = if last.quote_style.is_some() {
            &last.value
        } else {
            folded = last.value.to_ascii_lowercase();
            &folded
        };
        let is_syntax = name.0.len() == 1 && names::SYNTAX.contains(&bare);
        if self.catalogue.volatile.contains(bare) || names::always_writes(bare) {
            ControlFlow::Break(Verdict::Write)
        } else if is_syntax || self.catalogue.functions.contains(bare) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(Verdict::UnknownFunction)
        }
    }
}

impl Visitor for Reader<'_> {
    type Break = Verdict;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Verdict> {
        let writes = matches!(
            *query.body,
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
        );
        if writes || !query.locks.is_empty() {
            return ControlFlow::Break(Verdict::Write);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Verdict> {
        match select.into {
            Some(_) => ControlFlow::Break(Verdict::Write),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Verdict> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                self.judge_call(name)
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Verdict> {
        match expr {
            Expr::Function(function) => self.judge_call(&function.name),
            _ => ControlFlow::Continue(()),
        }
    }
}
