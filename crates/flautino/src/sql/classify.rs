//! SQL to [`Access`]: does a statement need the primary?
//!
//! A statement is a read when three readers agree: the tokens (no writing word, no function, view
//! or operator that the server's catalogue calls volatile), the session's look (nothing that may
//! stay in the session), and the parser (one statement of a reading kind, and every function in
//! it known to the catalogue). In doubt it is a write. What none of them can see, such as a volatile function
//! in a cast, a standby refuses; it is run on the primary then, and [`Plan::rescue`] remembers it.

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

use super::lexer::{Token, Tokens};
use super::names::{self, Kind, Name};
use super::traits::StatementTraits;
use crate::router::Access;

/// A longer text is not parsed, and so is a write: parsing it would hold up other requests.
const MAX_TEXT: usize = 64 * 1024;
/// Nor is one of more tokens: a chain of operators is a nested tree, and dropping it recurses.
const MAX_TOKENS: usize = 8_000;
/// The stack to parse, walk and drop such a tree on. In a debug build the parser takes some
/// 40 kB for each of the 50 levels it allows, and a tree of so many tokens 4 MB.
const STACK: usize = 16 << 20;
/// `NAMEDATALEN` less one.
const MAX_NAME: usize = 63;
/// A longer text counts for several in the cache.
const TEXT_OF_ONE: u64 = 4 * 1024;

/// What is known of one statement's text.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) traits: StatementTraits,
    /// The catalogue's version by which it was judged, and the lowest bit for a write. 0: never.
    judged: AtomicU64,
    /// A standby refused it as a write.
    rescued: AtomicBool,
}

impl Plan {
    pub(crate) fn of(sql: &str) -> Self {
        Self {
            traits: StatementTraits::of(sql),
            judged: AtomicU64::new(0),
            rescued: AtomicBool::new(false),
        }
    }

    /// A standby refused it as a write: from now on it goes to the primary.
    pub(crate) fn rescue(&self) {
        self.rescued.store(true, Ordering::Relaxed);
    }
}

/// What the server's catalogue says about names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalogue {
    /// Every function there is, by its name without the schema.
    pub(crate) functions: HashSet<Box<str>>,
    /// Functions of which one of that name is volatile.
    pub(crate) volatile: HashSet<Box<str>>,
    /// Names that write wherever they stand: volatile functions of the user's own, which
    /// `row.function` calls too, and views and tables whose rules or policies call one.
    pub(crate) anywhere: HashSet<Box<str>>,
    /// Operators whose function is volatile.
    pub(crate) operators: Vec<Box<str>>,
}

/// Asks for the catalogue to be read again: a statement named a function that it does not have.
type Refresh = Box<dyn Fn() + Send + Sync>;

/// Classifies statements, and remembers those it has seen.
pub(crate) struct Classifier {
    plans: Cache<Box<str>, Arc<Plan>, ByLength>,
    catalogue: ArcSwap<Catalogue>,
    version: AtomicU64,
    refresh: Refresh,
}

#[derive(Clone)]
struct ByLength;

impl Weighter<Box<str>, Arc<Plan>> for ByLength {
    fn weight(&self, text: &Box<str>, _: &Arc<Plan>) -> u64 {
        1 + text.len() as u64 / TEXT_OF_ONE
    }
}

impl Classifier {
    /// Remembers about so many statements. Until it is given a catalogue, every call of a
    /// function is a write.
    pub(crate) fn new(statements: usize, refresh: Refresh) -> Self {
        Self {
            plans: Cache::with_weighter(statements, statements as u64, ByLength),
            catalogue: ArcSwap::default(),
            version: AtomicU64::new(1),
            refresh,
        }
    }

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

    /// `plan` is that of `sql`.
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

    /// Judges by this catalogue from now on. Returns whether it differs from the one before.
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
    /// A write, for now.
    UnknownFunction,
}

fn judge(sql: &str, traits: &StatementTraits, catalogue: &Catalogue) -> Verdict {
    if sql.len() > MAX_TEXT
        || traits.multiple_commands
        || traits.control.is_some()
        || traits.may_change_session
    {
        return Verdict::Write;
    }
    let explains = match read_tokens(sql, catalogue) {
        Some(kind) => kind == Kind::Explain,
        None => return Verdict::Write,
    };
    let Ok(statements) = Parser::parse_sql(&PostgreSqlDialect {}, sql) else {
        return Verdict::Write;
    };
    let [statement] = &statements[..] else { return Verdict::Write };
    use sqlparser::ast::Statement as Parsed;
    match statement {
        Parsed::Query(_) if !explains => {}
        // It plans and does not run.
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

/// What kind of statement the first word makes it, if no token speaks against a read.
fn read_tokens(sql: &str, catalogue: &Catalogue) -> Option<Kind> {
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
            // It may be part of a longer one, or end where another begins: in doubt it is there.
            if catalogue.operators.iter().any(|operator| written.contains(&**operator)) {
                return None;
            }
            operator = Some(run);
        }
        if text == "("
            && kind != Some(Kind::Explain)
            && last.is_some_and(|name| may_write(name, catalogue))
        {
            return None;
        }
        // `(value).function` calls it, too, as `$1.function` does.
        let is_called = before == "." && before_that.starts_with([')', ']', '$']);
        (before_that, before) = (before, text);
        let name = Name::of(token);
        if let Some(name) = name {
            if is_called && kind != Some(Kind::Explain) && may_write(name, catalogue) {
                return None;
            }
            if kind.is_none() {
                kind = Some(names::kind_of(name)?);
            }
            let planned = kind == Some(Kind::Explain) && count > 0;
            // The server cuts long names, and what is left may be any.
            if name.is_unicode()
                || text.len() > MAX_NAME
                || name.is_in(&catalogue.anywhere) && !planned
                || name.any(names::describes_the_server) && !planned
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

/// Whether a function of that name may.
fn may_write(name: Name<'_>, catalogue: &Catalogue) -> bool {
    name.is_in(&catalogue.volatile) || name.any(names::always_writes)
}

/// Walks over the parsed statement, and breaks with a verdict that is no read.
struct Reader<'a> {
    catalogue: &'a Catalogue,
}

impl Reader<'_> {
    fn calls(&self, name: &ObjectName) -> ControlFlow<Verdict> {
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
                self.calls(name)
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Verdict> {
        match expr {
            Expr::Function(function) => self.calls(&function.name),
            _ => ControlFlow::Continue(()),
        }
    }
}
