//! Judges a text: a read or a write.
//!
//! A statement is a read when its first word reads, it is one command that leaves nothing behind in
//! the session, no word of it writes, and nothing that it names is tainted. A name is tainted when
//! what it stands for may write, or answers for one server only: see [`Catalogue`]. The text is
//! read as tokens, not parsed: that a name is tainted does not depend on where it stands, except
//! that a function counts where it is called. So more names can only make a statement a write.

use super::builtins::{Builtin, builtin, builtin_relation, is_builtin_type};
use super::catalogue::Catalogue;
use super::keywords::Keyword;
use super::lexer::{Token, Tokens};
use super::names::Name;
use super::traits::StatementTraits;

/// Commands that can be reads, by their first word.
const READS: [&str; 4] = ["select", "values", "with", "table"];
/// What `EXPLAIN` plans and does not run.
const PLANNED: [&str; 8] =
    ["select", "values", "with", "table", "insert", "update", "delete", "merge"];

/// What a text was judged to be. The greater of two is the safer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Read,
    /// A write until the catalogue is read again: the statement calls a function that is not in it.
    UnknownFunction,
    Write,
}

/// Judges a text that has these traits. With `in_doubt`, what the catalogue says may be outdated:
/// all that names anything but PostgreSQL's own is a write.
pub(super) fn judge(
    sql: &str,
    traits: &StatementTraits,
    catalogue: &Catalogue,
    in_doubt: bool,
) -> Verdict {
    if traits.multiple_commands || traits.control.is_some() || traits.may_change_session {
        return Verdict::Write;
    }
    let mut tokens = Tokens::of(sql);
    let verdict = judge_tokens(&mut tokens, catalogue, in_doubt);
    if verdict == Verdict::Write {
        return verdict;
    }
    let other = tokens.other_reading();
    other.map_or(verdict, |mut tokens| verdict.max(judge_tokens(&mut tokens, catalogue, in_doubt)))
}

/// Judges the tokens of a text. What the server cannot read is left to the primary.
fn judge_tokens(tokens: &mut Tokens<'_>, catalogue: &Catalogue, in_doubt: bool) -> Verdict {
    let verdict = judge_command(tokens.by_ref().map(|(token, _)| token), catalogue, in_doubt);
    // `SHOW` and `EXPLAIN` are judged by their beginning.
    tokens.for_each(drop);
    if tokens.is_unclosed() { Verdict::Write } else { verdict }
}

fn judge_command<'a>(
    mut tokens: impl Iterator<Item = Token<'a>>,
    catalogue: &'a Catalogue,
    in_doubt: bool,
) -> Verdict {
    let mut query = Query::new(catalogue, in_doubt);
    let first = loop {
        match tokens.next() {
            Some(Token::Symbol(b'(')) => query.open(),
            Some(Token::Symbol(b';')) if query.depth == 0 => {}
            Some(token) => break token,
            None => return Verdict::Write,
        }
    };
    if first.is("explain") && query.depth == 0 {
        return judge_explain(tokens);
    }
    if first.is("show") && query.depth == 0 {
        return Verdict::Read;
    }
    if !first.is_any(&READS) || !catalogue.hidden.is_empty() {
        return Verdict::Write;
    }
    // Each token is judged with the one before and the one behind it.
    let mut token = first;
    loop {
        let next = tokens.next();
        if query.writes(token, next) {
            return Verdict::Write;
        }
        let Some(next) = next else { break };
        query.last = Some(token);
        token = next;
    }
    match (query.depth, query.calls_unknown) {
        (0, false) => Verdict::Read,
        (0, true) => Verdict::UnknownFunction,
        _ => Verdict::Write,
    }
}

/// Judges what stands behind `EXPLAIN`. It plans the statement and does not run it, so that the
/// names in it do not matter, unless it has the option `ANALYZE`.
fn judge_explain<'a>(mut tokens: impl Iterator<Item = Token<'a>>) -> Verdict {
    let names_analyze = |token: Token<'_>| {
        Name::of(token).is_some_and(|name| name.has(|name| matches!(name, "analyze" | "analyse")))
    };
    let mut token = tokens.next();
    let has_options = token == Some(Token::Symbol(b'('));
    while token == Some(Token::Symbol(b'(')) {
        token = tokens.next();
    }
    // `EXPLAIN (SELECT …)` has no options.
    if has_options && !token.is_some_and(|token| token.is_any(&READS)) {
        while token != Some(Token::Symbol(b')')) {
            let Some(option) = token else { return Verdict::Write };
            token = tokens.next();
            let is_off = token.is_some_and(|value| value.is_any(&["false", "off"]));
            if names_analyze(option) && !is_off {
                return Verdict::Write;
            }
        }
        token = tokens.next();
    }
    if token.is_some_and(|token| token.is("verbose")) {
        token = tokens.next();
    }
    while token == Some(Token::Symbol(b'(')) {
        token = tokens.next();
    }
    match token {
        Some(token) if token.is_any(&PLANNED) => Verdict::Read,
        _ => Verdict::Write,
    }
}

/// Whether the relation describes the server or the session that reads it.
fn describes_the_server(relation: &str) -> bool {
    relation.starts_with("pg_") && builtin_relation(relation) == Some(Builtin::Primary)
}

/// A query as far as its tokens have been read.
struct Query<'a> {
    catalogue: &'a Catalogue,
    in_doubt: bool,
    /// The token before.
    last: Option<Token<'a>>,
    /// How many brackets are open.
    depth: usize,
    /// One bit for each open bracket, and one for the outermost: whether the names of a `WITH`
    /// clause are being listed there. What is nested deeper than the bits reach has none.
    lists_names: u64,
    /// Whether a call can follow a closing bracket: `DISTINCT ON (a) f(b)`, `a OPERATOR(+) f(b)`.
    calls_follow_brackets: bool,
    /// Whether `SET` has been met. In a query it ends a `SEARCH` or `CYCLE` clause, which the
    /// statement itself can follow.
    has_set: bool,
    calls_unknown: bool,
}

impl<'a> Query<'a> {
    fn new(catalogue: &'a Catalogue, in_doubt: bool) -> Self {
        Self {
            catalogue,
            in_doubt,
            last: None,
            depth: 0,
            lists_names: 0,
            calls_follow_brackets: false,
            has_set: false,
            calls_unknown: false,
        }
    }

    fn open(&mut self) {
        self.depth += 1;
        self.list_names(false);
        self.last = Some(Token::Symbol(b'('));
    }

    fn list_names(&mut self, lists: bool) {
        let bit = u32::try_from(self.depth).ok().and_then(|depth| 1_u64.checked_shl(depth));
        let bit = bit.unwrap_or_default();
        self.lists_names = if lists { self.lists_names | bit } else { self.lists_names & !bit };
    }

    fn is_listing_names(&self) -> bool {
        let depth = u32::try_from(self.depth).unwrap_or(u32::MAX);
        self.lists_names.checked_shr(depth).is_some_and(|bits| bits & 1 == 1)
    }

    /// Whether the token makes the statement a write. `next` is the one behind it.
    fn writes(&mut self, token: Token<'a>, next: Option<Token<'a>>) -> bool {
        match token {
            Token::Symbol(b'(') => self.open(),
            Token::Symbol(b')') if self.depth == 0 => return true,
            Token::Symbol(b')') => self.depth -= 1,
            Token::Operator(text) => return self.catalogue.taints_operator(text),
            Token::Word(_) | Token::Quoted(_) => {
                let is_word = matches!(token, Token::Word(_)) && !self.follows(b'.');
                return (is_word && self.word_writes(token, next))
                    || Name::of(token).is_some_and(|name| self.is_tainted(&name, next));
            }
            _ => {}
        }
        false
    }

    fn follows(&self, symbol: u8) -> bool {
        self.last == Some(Token::Symbol(symbol))
    }

    fn follows_word(&self, word: &str) -> bool {
        self.last.is_some_and(|last| last.is(word))
    }

    /// Whether this word makes the query a write: `INTO`, a row lock, or a statement that writes
    /// rows. Also notes what later tokens depend on.
    fn word_writes(&mut self, token: Token<'a>, next: Option<Token<'a>>) -> bool {
        let Token::Word(text) = token else { return false };
        let next_is = |word: &str| next.is_some_and(|next| next.is(word));
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        match text.len() {
            2 if is("on") => self.calls_follow_brackets |= self.follows_word("distinct"),
            // `INSERT` and `MERGE` have it too.
            4 if is("into") => return true,
            3 if is("key") => return self.follows_word("for"),
            2 if is("no") => return self.follows_word("for") && next_is("key"),
            5 if is("share") => return self.follows_word("for"),
            6 if is("update") => {
                let is_name = next.is_some_and(Token::is_name);
                return self.follows_word("for") || (self.is_place_of_statement() && is_name);
            }
            6 if is("delete") => return self.is_place_of_statement() && next_is("from"),
            3 if is("set") => self.has_set = true,
            4 if is("with") => {
                let is_clause = matches!(self.last, None | Some(Token::Symbol(b'(')));
                self.list_names(is_clause || self.is_listing_names());
            }
            6 if is("select") || is("values") => self.list_names(false),
            5 if is("table") => self.list_names(false),
            8 if is("operator") => self.calls_follow_brackets = true,
            _ => {}
        }
        false
    }

    /// Whether a statement can begin here: at the beginning, as the body of a `WITH`, or behind the
    /// `WITH` clause.
    fn is_place_of_statement(&self) -> bool {
        self.last.is_none() || self.follows(b'(') || self.follows(b')') || self.has_set
    }

    /// Whether what is named may write, or answers for one server only.
    fn is_tainted(&mut self, name: &Name<'a>, next: Option<Token<'a>>) -> bool {
        let is_called = next == Some(Token::Symbol(b'('));
        let is_attribute = self.follows(b'.') && !is_called;
        // `U&"…" UESCAPE` with a constant of another form.
        if name.is_quoted() && next.is_some_and(|next| next.is("uescape")) {
            return true;
        }
        if (is_called && self.catalogue.taints_call(name))
            || (is_attribute && name.is_in(&self.catalogue.attributes))
            || name.has(describes_the_server)
            || (self.in_doubt && !self.is_of_postgresql(name, is_called))
        {
            return true;
        }
        if name.is_in(&self.catalogue.anywhere) {
            return self.follows(b'.') || name.keyword() != Some(Keyword::Reserved);
        }
        self.calls_unknown |= is_called && !self.is_known(name);
        false
    }

    /// Whether the name can only be that of something that comes with PostgreSQL, or is a key word
    /// that is no name.
    fn is_of_postgresql(&self, name: &Name<'a>, is_called: bool) -> bool {
        let is_key_word = !self.follows(b'.')
            && match name.keyword() {
                Some(Keyword::Unreserved) => name.has(|word| word == "by"),
                kind => kind.is_some(),
            };
        is_key_word
            || name.has(|name| {
                let is_type = is_builtin_type(name) || name == "pg_catalog";
                is_type
                    || (if is_called { builtin(name) } else { builtin_relation(name) }).is_some()
            })
    }

    /// Whether a name with a bracket behind it is that of a function or type that the catalogue
    /// knows, or is no call.
    fn is_known(&self, name: &Name<'a>) -> bool {
        let is_syntax = !self.follows(b'.') && name.keyword().is_some();
        is_syntax || name.is_in(&self.catalogue.functions) || self.is_alias()
    }

    /// Whether a name with a bracket behind it stands where an alias with a list of columns does:
    /// `AS x (a)`, `t x (a)`, `f() x (a)`, `WITH x (a) AS`.
    fn is_alias(&self) -> bool {
        match self.last {
            Some(Token::Quoted(_)) => true,
            Some(Token::Symbol(b')')) => !self.calls_follow_brackets,
            Some(Token::Symbol(b',')) => self.is_listing_names(),
            Some(last @ Token::Word(_)) => {
                last.is("as")
                    || (last.is_any(&["with", "recursive"]) && self.is_listing_names())
                    || Name::of(last).is_some_and(|name| name.keyword().is_none())
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
