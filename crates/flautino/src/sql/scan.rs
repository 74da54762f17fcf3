//! What a text does to its session, as far as its tokens show: the text of a statement, or the body of
//! a function.
//!
//! In doubt it does something.

use std::borrow::Cow;

use super::effects::{Effects, of_function};
use super::lexer::{Token, Tokens};
use super::names::{Name, cut};

/// What a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextKind {
    /// A statement as it is sent, or several.
    Statement,
    /// The body of a function in SQL or PL/pgSQL, or of `DO`.
    Body,
}

/// Who is told of the names in a text, as the server reads them: folded, without quotes and schema.
pub(super) trait Names {
    /// A function of that name is called.
    fn called(&mut self, name: &str);
    /// The name, or key word, stands somewhere.
    fn mentioned(&mut self, name: &str);
}

/// What is found in a text, beside what its names stand for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) effects: Effects,
    /// It may write rows, so that triggers may run.
    pub(super) writes: bool,
    /// It may create, change or drop something, so that event triggers may run.
    pub(super) defines: bool,
}

/// Reads a text.
pub(super) fn scan(text: &str, kind: TextKind, names: &mut dyn Names) -> Found {
    let mut tokens = Tokens::of(text);
    let mut found = scan_tokens(text, &mut tokens, kind, names);
    if let Some(mut tokens) = tokens.other_reading() {
        let other = scan_tokens(text, &mut tokens, kind, names);
        found.effects |= other.effects;
        found.writes |= other.writes;
        found.defines |= other.defines;
    }
    found
}

fn scan_tokens(
    text: &str,
    tokens: &mut Tokens<'_>,
    kind: TextKind,
    names: &mut dyn Names,
) -> Found {
    let mut scanner = Scanner::new(kind);
    for (token, place) in tokens {
        scanner.read(token, &text[place], names);
    }
    scanner.finish(names)
}

struct Scanner<'t> {
    kind: TextKind,
    found: Found,
    /// The first word of the command.
    first: Option<Token<'t>>,
    /// The command creates something, and its body may be written out as SQL.
    in_definition: bool,
    /// `BEGIN ATOMIC` was read: the body is written out as commands, which end by semicolons too.
    has_atomic: bool,
    last: Option<Token<'t>>,
    /// The text of the token before, and of the one before that.
    before: &'t str,
    before_that: &'t str,
    /// The name that was just read, and whether a dot stands in front of it: it is called if a
    /// parenthesis follows, and if there is none but a dot (`row.function`).
    name: Option<(Cow<'t, str>, bool)>,
    depth: u32,
    /// The depth inside of the arguments of `set_config`.
    set_config: Option<u32>,
    /// `SET` stands where a command begins; the next word says whether it ends with the transaction.
    has_set: bool,
}

const QUERIES: [&str; 8] =
    ["select", "insert", "update", "delete", "merge", "with", "values", "table"];
const WRITE: [&str; 10] =
    ["insert", "update", "delete", "merge", "copy", "truncate", "call", "do", "execute", "refresh"];

impl<'t> Scanner<'t> {
    fn new(kind: TextKind) -> Self {
        Self {
            kind,
            found: Found::default(),
            first: None,
            in_definition: false,
            has_atomic: false,
            last: None,
            before: "",
            before_that: "",
            name: None,
            depth: 0,
            set_config: None,
            has_set: false,
        }
    }

    fn adds(&mut self, effects: Effects) {
        self.found.effects |= effects;
    }

    fn read(&mut self, token: Token<'t>, text: &'t str, names: &mut dyn Names) {
        let is_call = text == "(";
        if let Some((name, after_dot)) = self.name.take()
            && (is_call || after_dot)
        {
            self.call(&name, is_call, names);
        }
        if std::mem::take(&mut self.has_set)
            && !token.is_any(&["local", "transaction", "constraints"])
        {
            self.adds(Effects::CHANGES);
        }
        if let Token::Word(_) = token {
            self.word(token);
        }
        match token {
            Token::Word(_) | Token::Quoted(_) => match Name::of(token).and_then(Name::spelt) {
                Some(Cow::Borrowed(name)) => self.named(cut(name).into(), names),
                Some(Cow::Owned(name)) => self.named(cut(&name).to_owned().into(), names),
                None => self.adds(Effects::DOUBT),
            },
            Token::Literal => self.literal(text, names),
            Token::Symbol(b';') if self.kind == TextKind::Statement && self.depth == 0 => {
                self.first = None;
                self.in_definition &= self.has_atomic;
            }
            _ => self.other(text),
        }
        (self.before_that, self.before) = (self.before, text);
        self.last = Some(token);
    }

    fn other(&mut self, text: &str) {
        match text {
            "(" => self.depth += 1,
            ")" => {
                if self.set_config == Some(self.depth) {
                    self.set_config = None;
                    // `set_config(…, true)` ends with the transaction.
                    let is_local = self.before.eq_ignore_ascii_case("true");
                    if !(is_local && self.before_that == ",") {
                        self.adds(Effects::CHANGES);
                    }
                }
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn named(&mut self, name: Cow<'t, str>, names: &mut dyn Names) {
        if name.starts_with("pg_temp") || name == "pg_settings" {
            self.adds(Effects::CHANGES);
        }
        names.mentioned(&name);
        self.name = Some((name, self.before == "."));
    }

    /// A function is called, with parentheses or without.
    fn call(&mut self, name: &str, has_arguments: bool, names: &mut dyn Names) {
        names.called(name);
        let mut effects = of_function(name);
        let holds = Effects::TAKES | Effects::GIVES_BACK;
        if self.kind == TextKind::Statement && effects.any(holds) {
            effects = effects.without(holds);
            if !self.in_definition {
                effects |= Effects::HOLDS;
            }
        }
        if name == "set_config" && has_arguments && self.set_config.is_none() {
            // Its last argument decides, at the closing parenthesis.
            effects = Effects::NONE;
            self.set_config = Some(self.depth + 1);
        }
        self.adds(effects);
    }

    fn word(&mut self, token: Token<'t>) {
        let is_statement = self.kind == TextKind::Statement;
        if is_statement && self.first.is_none() {
            self.begin_command(token);
        }
        if token.is_any(&WRITE) {
            self.found.writes = true;
            self.adds(Effects::ADVANCES);
        }
        let follows = |words: &[&str]| self.last.is_some_and(|last| last.is_any(words));
        self.has_atomic |= token.is("atomic") && follows(&["begin"]);
        if token.is_any(&["temp", "temporary"])
            && follows(&["create", "replace", "local", "global", "into"])
        {
            return self.adds(Effects::CHANGES);
        }
        let creates = follows(&["create", "replace"]) && !token.is_any(&["or", "local", "global"]);
        if creates && (!is_statement || self.in_definition) {
            self.adds(Effects::ALTERS);
        }
        if !is_statement {
            self.body_word(token);
        }
    }

    /// The first word of a command.
    fn begin_command(&mut self, token: Token<'t>) {
        self.first = Some(token);
        self.in_definition |= token.is("create");
        self.found.defines |= !token.is_any(&QUERIES);
        if token.is("listen") {
            self.adds(Effects::CHANGES | Effects::HOLDS);
        }
        if token.is("load") {
            self.adds(Effects::SPOILS);
        }
        if token.is("alter") {
            self.found.writes = true;
            self.adds(Effects::ALTERS | Effects::ADVANCES);
        }
    }

    /// A word of a body, where a command may begin anywhere.
    fn body_word(&mut self, token: Token<'t>) {
        let starts = self.last.is_none_or(|last| match last {
            Token::Word(_) => last.is_any(&["begin", "then", "else", "loop"]),
            Token::Quoted(_) => false,
            _ => true,
        });
        if token.is("set") && starts {
            self.has_set = true;
        }
        let leaves = ["reset", "listen", "prepare", "discard"];
        if (token.is_any(&leaves) && starts)
            || (token.is("hold") && self.last.is_some_and(|last| last.is("with")))
        {
            self.adds(Effects::CHANGES);
        }
        if token.is("load") && starts {
            self.adds(Effects::SPOILS);
        }
        if token.is("execute") {
            self.adds(Effects::DOUBT);
        }
        if token.is("alter") && starts {
            self.adds(Effects::ALTERS);
        }
        self.found.defines |=
            token.is_any(&["create", "alter", "drop", "comment", "grant", "revoke", "refresh"]);
    }

    /// The body of `DO` is a literal.
    fn literal(&mut self, text: &'t str, names: &mut dyn Names) {
        if self.kind == TextKind::Body || !self.first.is_some_and(|first| first.is("do")) {
            return;
        }
        let body = match text.strip_prefix('$').and_then(|rest| rest.find('$')) {
            Some(tag) => text.get(tag + 2..text.len().saturating_sub(tag + 2)).unwrap_or_default(),
            None => text.trim_matches('\''),
        };
        let inner = scan(body, TextKind::Body, names);
        self.adds(inner.effects);
        self.found.writes |= inner.writes;
        self.found.defines |= inner.defines;
    }

    fn finish(mut self, names: &mut dyn Names) -> Found {
        if let Some((name, true)) = self.name.take() {
            self.call(&name, false, names);
        }
        if self.set_config.is_some() || self.has_set {
            self.adds(Effects::CHANGES);
        }
        self.found
    }
}

#[cfg(test)]
mod tests;
