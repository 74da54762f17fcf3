//! SQL text as tokens: just enough to tell words from literals and comments.
//!
//! The rules are those of PostgreSQL's manual, section "Lexical Structure", with
//! `standard_conforming_strings = on`. Tokens borrow from the text. A literal, a quoted identifier
//! or a comment that is not closed runs to the end of the text.

use std::ops::Range;

/// A piece of SQL that is neither white space nor comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A key word, or an identifier without quotes.
    Word(&'a str),
    /// An identifier, with its quotes.
    Quoted(&'a str),
    /// A string constant, with prefix and quotes: `'…'`, `E'…'`, `U&'…'`, `$tag$…$tag$`.
    Literal,
    Semicolon,
    /// A number, a parameter such as `$1`, or a single character.
    Other,
}

impl Token<'_> {
    /// Whether it is this key word, in any case.
    pub(crate) fn is(self, word: &str) -> bool {
        matches!(self, Token::Word(text) if text.eq_ignore_ascii_case(word))
    }

    /// Whether it is one of these key words.
    pub(crate) fn is_any(self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }
}

/// The tokens of a text, each with its range of bytes.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn skip_space_and_comments(&mut self) {
        loop {
            match self.rest() {
                [b'-', b'-', ..] => {
                    self.at += run_length(self.rest(), |byte| !matches!(byte, b'\n' | b'\r'));
                }
                [b'/', b'*', ..] => self.at += block_comment_length(self.rest()),
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => self.at += 1,
                _ => return,
            }
        }
    }

    /// The next token's kind and length.
    fn measure(&self) -> Option<(TokenKind, usize)> {
        let rest = self.rest();
        Some(match rest {
            [] => return None,
            [b';', ..] => (TokenKind::Semicolon, 1),
            [b'\'', ..] => (TokenKind::Literal, quoted_length(rest, b'\'', false)),
            [b'e' | b'E', b'\'', ..] => {
                (TokenKind::Literal, 1 + quoted_length(&rest[1..], b'\'', true))
            }
            [b'b' | b'B' | b'x' | b'X' | b'n' | b'N', b'\'', ..] => {
                (TokenKind::Literal, 1 + quoted_length(&rest[1..], b'\'', false))
            }
            [b'u' | b'U', b'&', b'\'', ..] => {
                (TokenKind::Literal, 2 + quoted_length(&rest[2..], b'\'', false))
            }
            [b'u' | b'U', b'&', b'"', ..] => {
                (TokenKind::Quoted, 2 + quoted_length(&rest[2..], b'"', false))
            }
            [b'"', ..] => (TokenKind::Quoted, quoted_length(rest, b'"', false)),
            [b'$', ..] => match dollar_quoted_length(rest) {
                Some(length) => (TokenKind::Literal, length),
                None => {
                    (TokenKind::Other, 1 + run_length(&rest[1..], |byte| byte.is_ascii_digit()))
                }
            },
            [byte, ..] if starts_word(*byte) => (TokenKind::Word, run_length(rest, continues_word)),
            [byte, ..] if byte.is_ascii_digit() => {
                (TokenKind::Other, run_length(rest, continues_number))
            }
            _ => (TokenKind::Other, 1),
        })
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (Token<'a>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_space_and_comments();
        let (kind, length) = self.measure()?;
        let place = self.at..self.at + length;
        self.at = place.end;
        // Tokens begin and end beside an ASCII byte or between whole characters, so this is never
        // empty.
        let text = self.text.get(place.clone()).unwrap_or_default();
        let token = match kind {
            TokenKind::Word => Token::Word(text),
            TokenKind::Quoted => Token::Quoted(text),
            TokenKind::Literal => Token::Literal,
            TokenKind::Semicolon => Token::Semicolon,
            TokenKind::Other => Token::Other,
        };
        Some((token, place))
    }
}

enum TokenKind {
    Word,
    Quoted,
    Literal,
    Semicolon,
    Other,
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn continues_number(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_'
}

/// How many bytes at the beginning belong together.
fn run_length(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|byte| !belongs(*byte)).unwrap_or(bytes.len())
}

/// The length of a literal or identifier with its quotes. A quote inside it is doubled.
fn quoted_length(bytes: &[u8], quote: u8, backslash_escapes: bool) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if backslash_escapes => at += 2,
            byte if byte == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The length of `$tag$…$tag$`; `None` for a parameter such as `$1`, or a lone dollar.
fn dollar_quoted_length(bytes: &[u8]) -> Option<usize> {
    let tag = run_length(&bytes[1..], |byte| continues_word(byte) && byte != b'$');
    let delimiter = bytes.get(..tag + 2)?;
    if delimiter.last() != Some(&b'$') || bytes[1].is_ascii_digit() {
        return None;
    }
    let body = &bytes[delimiter.len()..];
    let end = body.windows(delimiter.len()).position(|window| window == delimiter);
    Some(end.map_or(bytes.len(), |end| end + 2 * delimiter.len()))
}

/// The length of a block comment. Block comments nest in PostgreSQL.
fn block_comment_length(bytes: &[u8]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        match bytes.get(at..) {
            Some([b'/', b'*', ..]) => (at, depth) = (at + 2, depth + 1),
            Some([b'*', b'/', ..]) => (at, depth) = (at + 2, depth - 1),
            Some([_, ..]) => at += 1,
            Some([]) | None => return bytes.len(),
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(sql: &str) -> Vec<&str> {
        let word = |(token, _)| match token {
            Token::Word(word) => Some(word),
            Token::Quoted(_) | Token::Literal | Token::Semicolon | Token::Other => None,
        };
        Tokens::of(sql).filter_map(word).collect()
    }

    #[test]
    fn words_stand_outside_literals_identifiers_and_comments() {
        for (sql, expected) in [
            ("select a -- b\nc /* d /* e */ f */ g", vec!["select", "a", "c", "g"]),
            ("a 'b ''c'' d' e", vec!["a", "e"]),
            (r"a E'b \' c' d", vec!["a", "d"]),
            (r"a 'b \' c' d'", vec!["a", "c"]),
            ("a -- b\rc --\r\nd", vec!["a", "c", "d"]),
            ("a $$b$$ c $x$ d $$ e $x$ f $1 g", vec!["a", "c", "f", "g"]),
            ("a $1$2 b$c d", vec!["a", "b$c", "d"]),
            ("a \"b \"\"c\" U&\"d\" U&'e' x'f' n'g' h", vec!["a", "h"]),
            ("ä1 é", vec!["ä1", "é"]),
            ("1e5 2.0x a", vec!["a"]),
            ("a 'open", vec!["a"]),
            ("a /* open", vec!["a"]),
            ("a $$ open", vec!["a"]),
        ] {
            assert_eq!(words(sql), expected, "{sql}");
        }
    }

    #[test]
    fn tokens_of_any_text_are_in_order_and_hold_whole_characters() {
        let pieces =
            ["'", "\"", "$", "$a$", "--", "/*", "*/", "\\", "E'", "ä", ";", "\n", "1", "x"];
        for a in pieces {
            for b in pieces {
                for c in pieces {
                    for d in pieces {
                        let sql = [a, b, c, d].concat();
                        let mut end = 0;
                        for (_, place) in Tokens::of(&sql) {
                            assert!(place.start >= end && place.end > place.start, "{sql}");
                            assert!(sql.get(place.clone()).is_some(), "{sql}");
                            end = place.end;
                        }
                    }
                }
            }
        }
    }
}
