//! Names in a text, read as the server reads them.

use std::borrow::Cow;
use std::collections::HashSet;

use super::keywords::{Keyword, keyword};
use super::lexer::Token;

/// The longest name that the server keeps whole, in bytes: `NAMEDATALEN` - 1.
const MAX_NAME: usize = 63;

/// An identifier or a key word, as the server reads it.
#[derive(Debug)]
pub(super) struct Name<'a> {
    is_quoted: bool,
    /// The server folds other letters too, if the database's encoding has one byte for each.
    folds_more: bool,
    /// Folded to lower case, or without its quotes and escapes. `None` if it has an escape that is none.
    spelt: Option<Cow<'a, str>>,
}

impl<'a> Name<'a> {
    pub(super) fn of(token: Token<'a>) -> Option<Self> {
        match token {
            Token::Word(text) => {
                let (spelt, folds_more) = (Some(folded(text)), !text.is_ascii());
                Some(Self { is_quoted: false, folds_more, spelt })
            }
            Token::Quoted(text) => {
                Some(Self { is_quoted: true, folds_more: false, spelt: unescaped(text) })
            }
            _ => None,
        }
    }

    /// Whether the name, as the server may read it, has this property. A name that cannot be read
    /// here counts as one that has it.
    pub(super) fn has(&self, property: impl Fn(&str) -> bool) -> bool {
        let Some(name) = &self.spelt else { return true };
        property(name)
            || (name.len() > MAX_NAME && property(cut(name)))
            || (self.folds_more && property(cut(&name.to_lowercase())))
    }

    pub(super) fn is_in(&self, names: &HashSet<Box<str>>) -> bool {
        !names.is_empty() && self.has(|name| names.contains(name))
    }

    /// What kind of key word it is, if it is one.
    pub(super) fn keyword(&self) -> Option<Keyword> {
        if self.is_quoted { None } else { keyword(self.spelt.as_deref()?) }
    }

    pub(super) fn is_quoted(&self) -> bool {
        self.is_quoted
    }

    /// The name; `None` if it cannot be read.
    pub(super) fn spelt(self) -> Option<Cow<'a, str>> {
        self.spelt
    }
}

fn folded(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        text.to_ascii_lowercase().into()
    } else {
        text.into()
    }
}

/// The name without its quotes and escapes.
fn unescaped(text: &str) -> Option<Cow<'_, str>> {
    match text.strip_prefix('"') {
        Some(rest) => Some(unquoted(rest).0),
        None => without_escapes(text),
    }
}

/// The name as the server cuts it: between characters.
pub(super) fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}

/// What stands before the closing quote, with doubled quotes made one, and what stands behind it.
fn unquoted(rest: &str) -> (Cow<'_, str>, &str) {
    let bytes = rest.as_bytes();
    let mut at = 0;
    let mut doubled = false;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'"', b'"', ..] => (at, doubled) = (at + 2, true),
            [b'"', ..] => break,
            _ => at += 1,
        }
    }
    let (name, behind) = rest.split_at(at);
    (if doubled { name.replace("\"\"", "\"").into() } else { name.into() }, behind)
}

/// The name that `U&"…"` spells, with or without `UESCAPE '…'` behind it.
fn without_escapes(text: &str) -> Option<Cow<'_, str>> {
    let (name, behind) = unquoted(text.get(3..)?);
    let mut escape = '\\';
    if let Some(constant) = behind.strip_prefix('"').and_then(|tail| tail.strip_suffix('\'')) {
        escape = constant.chars().next_back()?;
        constant.strip_suffix(escape)?.strip_suffix('\'')?;
    }
    if !name.contains(escape) {
        return Some(name);
    }
    let mut spelt = String::new();
    let mut rest = &*name;
    while let Some((plain, behind)) = rest.split_once(escape) {
        spelt.push_str(plain);
        if let Some(behind) = behind.strip_prefix(escape) {
            spelt.push(escape);
            rest = behind;
            continue;
        }
        let (digits, behind) = match behind.strip_prefix('+') {
            Some(behind) => behind.split_at_checked(6)?,
            None => behind.split_at_checked(4)?,
        };
        spelt.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?)?);
        rest = behind;
    }
    spelt.push_str(rest);
    Some(spelt.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(token: Token<'_>) -> Name<'_> {
        Name::of(token).unwrap()
    }

    #[test]
    fn a_name_is_read_as_the_server_reads_it() {
        for (quoted, expected) in [
            ("\"a\"", Some("a")),
            ("\"A\"\"b\"", Some("A\"b")),
            ("U&\"gr\\0061b\"", Some("grab")),
            ("u&\"gr\\+000061b\"", Some("grab")),
            ("U&\"gr!0061b\" UESCAPE '!'", Some("grab")),
            ("U&\"gr\\0061b\" UESCAPE '!'", Some("gr\\0061b")),
            ("U&\"a!!\\\" uescape -- '\n '!'", Some("a!\\")),
            ("U&\"a\\00\"", None),
            ("U&\"a\\d83d\"", None),
            ("U&\"a\" UESCAPE '!!'", None),
            ("U&\"a\" UESCAPE ''", None),
        ] {
            assert_eq!(name(Token::Quoted(quoted)).spelt().as_deref(), expected, "{quoted}");
        }
        assert_eq!(name(Token::Word("GRAB")).spelt().as_deref(), Some("grab"));
    }

    #[test]
    fn a_long_name_is_cut_and_other_letters_are_folded() {
        assert!(name(Token::Word(&"x".repeat(70))).has(|name| name == "x".repeat(63)));
        let long = "x".repeat(62) + "éy";
        assert!(name(Token::Word(&long)).has(|name| name == "x".repeat(62)));
        assert!(name(Token::Word(&long)).has(|name| name == long));
        assert!(name(Token::Word("É")).has(|name| name == "é"));
        assert!(!name(Token::Quoted("\"É\"")).has(|name| name == "é"));
    }
}
