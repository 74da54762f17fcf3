//! SQL text as tokens, as the server's own lexer reads it: PostgreSQL's `scan.l`, and its manual,
//! section "Lexical Structure".
//!
//! Tokens borrow from the text. A constant, a quoted identifier or a comment that is not closed
//! runs to the end of the text. The server refuses such a text, and one that holds a character with
//! which no token begins.
//!
//! One thing the text does not show: whether a backslash in a plain constant `'…'` is an escape.
//! That depends on the session's `standard_conforming_strings`. Where it matters,
//! [`Tokens::other_reading`] reads the text the other way.

use std::ops::Range;

/// The longest operator that the server takes, in bytes: `NAMEDATALEN` - 1.
const MAX_OPERATOR: usize = 63;

/// A piece of SQL that is neither white space nor comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A key word, or an identifier without quotes.
    Word(&'a str),
    /// An identifier with its quotes: `"…"`, or `U&"…"` with its `UESCAPE` if it has one.
    Quoted(&'a str),
    /// A string constant, with prefix and quotes: `'…'`, `E'…'`, `B'…'`, `U&'…'`, `$tag$…$tag$`. A
    /// constant that goes on in the next line is one token.
    Literal,
    Number,
    /// `$1` and the like.
    Parameter,
    Operator(&'a str),
    /// A single character that is none of these, such as a bracket, a comma or a semicolon.
    Symbol(u8),
}

impl Token<'_> {
    /// Whether it is this key word, in any case.
    pub(crate) fn is(self, word: &str) -> bool {
        matches!(self, Token::Word(text) if text.eq_ignore_ascii_case(word))
    }

    /// Whether it is an identifier, or a key word.
    pub(crate) fn is_name(self) -> bool {
        matches!(self, Token::Word(_) | Token::Quoted(_))
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
    /// Whether a backslash in a plain constant is an escape.
    escapes: bool,
    ambiguous: bool,
    unclosed: bool,
}

impl<'a> Tokens<'a> {
    /// Reads the text with `standard_conforming_strings = on`, which is the server's default.
    pub(crate) fn of(text: &'a str) -> Self {
        Self { text, at: 0, escapes: false, ambiguous: false, unclosed: false }
    }

    /// Once all tokens are taken: the tokens with `standard_conforming_strings = off`, if they are
    /// others and the server could make a statement of them.
    pub(crate) fn other_reading(&self) -> Option<Self> {
        let other = Self { escapes: true, ..Self::of(self.text) };
        (self.ambiguous && other.clone().may_be_valid()).then_some(other)
    }

    /// Whether nothing shows that the server refuses the text: it is closed, its brackets match, and
    /// there is no character with which no token begins.
    fn may_be_valid(mut self) -> bool {
        let mut depth = 0_usize;
        for (token, _) in self.by_ref() {
            match token {
                Token::Symbol(b'(') => depth += 1,
                Token::Symbol(b')') if depth == 0 => return false,
                Token::Symbol(b')') => depth -= 1,
                Token::Symbol(byte) if !b"[],;.:".contains(&byte) => return false,
                _ => {}
            }
        }
        depth == 0 && !self.unclosed
    }

    /// Whether a constant, a quoted identifier or a comment has been met that is not closed.
    pub(crate) fn is_unclosed(&self) -> bool {
        self.unclosed
    }

    /// The length of what is closed; of all the rest, if it is not.
    fn closed(&mut self, length: Option<usize>) -> usize {
        self.unclosed |= length.is_none();
        length.unwrap_or(self.rest().len())
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
                [b'/', b'*', ..] => self.at += self.closed(block_comment_length(self.rest())),
                [byte, ..] if is_space(*byte) => self.at += 1,
                _ => return,
            }
        }
    }

    /// The next token's kind and length.
    fn measure(&mut self) -> Option<(Kind, usize)> {
        let rest = self.rest();
        let measured = match rest {
            [] => return None,
            [b'\'', ..] => self.measure_plain(0),
            [b'n' | b'N', b'\'', ..] => self.measure_plain(1),
            [b'e' | b'E', b'\'', ..] => (Kind::Literal, self.constant(1, true)),
            [b'b' | b'B' | b'x' | b'X', b'\'', ..] => (Kind::Literal, self.constant(1, false)),
            [b'u' | b'U', b'&', b'\'', ..] => (Kind::Literal, self.constant(2, false)),
            [b'u' | b'U', b'&', b'"', ..] => {
                let length = self.closed(quoted_length(rest, 2, false));
                (Kind::Quoted, length + self.uescape_length(self.at + length))
            }
            [b'"', ..] => (Kind::Quoted, self.closed(quoted_length(rest, 0, false))),
            [b'$', b'0'..=b'9', ..] => {
                (Kind::Parameter, 1 + run_length(&rest[1..], |byte| byte.is_ascii_digit()))
            }
            [b'$', ..] => match dollar_delimiter(rest) {
                Some(delimiter) => {
                    (Kind::Literal, self.closed(dollar_quoted_length(rest, delimiter)))
                }
                None => (Kind::Symbol, 1),
            },
            [byte, ..] if starts_word(*byte) => (Kind::Word, run_length(rest, continues_word)),
            [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => (Kind::Number, number_length(rest)),
            [byte, ..] if is_operator(*byte) => (Kind::Operator, operator_length(rest)),
            _ => (Kind::Symbol, 1),
        };
        Some(measured)
    }

    fn measure_plain(&mut self, prefix: usize) -> (Kind, usize) {
        let length = self.constant(prefix, self.escapes);
        self.ambiguous |= self.rest()[..length].contains(&b'\\');
        (Kind::Literal, length)
    }

    fn constant(&mut self, prefix: usize, escapes: bool) -> usize {
        self.closed(constant_length(self.rest(), prefix, escapes))
    }

    /// The length of `UESCAPE '…'` behind an identifier that ends here, with all before it; 0 if
    /// there is none.
    fn uescape_length(&self, end: usize) -> usize {
        let mut behind = Self { at: end, ..self.clone() };
        behind.skip_space_and_comments();
        let word = &behind.rest()[..run_length(behind.rest(), continues_word)];
        if !word.eq_ignore_ascii_case(b"uescape") {
            return 0;
        }
        behind.at += word.len();
        behind.skip_space_and_comments();
        match behind.rest() {
            [b'\'', ..] => behind.at + behind.constant(0, false) - end,
            _ => 0,
        }
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
            Kind::Word => Token::Word(text),
            Kind::Quoted => Token::Quoted(text),
            Kind::Literal => Token::Literal,
            Kind::Number => Token::Number,
            Kind::Parameter => Token::Parameter,
            Kind::Operator => Token::Operator(text),
            Kind::Symbol => Token::Symbol(text.as_bytes().first().copied().unwrap_or_default()),
        };
        Some((token, place))
    }
}

enum Kind {
    Word,
    Quoted,
    Literal,
    Number,
    Parameter,
    Operator,
    Symbol,
}

/// What a byte can be in a text, one bit for each.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => STARTS_WORD | CONTINUES_WORD,
            b'0'..=b'9' | b'$' => CONTINUES_WORD,
            b'+' | b'-' | b'*' | b'/' | b'<' | b'>' | b'=' => OPERATOR,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%' => {
                OPERATOR | BEYOND_STANDARD
            }
            _ => 0,
        };
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};
const SPACE: u8 = 1;
const STARTS_WORD: u8 = 2;
const CONTINUES_WORD: u8 = 4;
const OPERATOR: u8 = 8;
/// Only operators that standard SQL does not have hold it.
const BEYOND_STANDARD: u8 = 16;

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

fn is_space(byte: u8) -> bool {
    is(byte, SPACE)
}

fn starts_word(byte: u8) -> bool {
    is(byte, STARTS_WORD)
}

fn continues_word(byte: u8) -> bool {
    is(byte, CONTINUES_WORD)
}

fn is_operator(byte: u8) -> bool {
    is(byte, OPERATOR)
}

/// How many bytes at the beginning belong together.
fn run_length(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|byte| !belongs(*byte)).unwrap_or(bytes.len())
}

/// The length of a string constant with its prefix, and of all that continues it: a quote on a
/// later line, with nothing but white space and `--` comments between. What continues it is of the
/// same kind, with or without escapes.
fn constant_length(bytes: &[u8], prefix: usize, escapes: bool) -> Option<usize> {
    let mut end = quoted_length(bytes, prefix, escapes)?;
    while let Some(gap) = gap_before_continuation(&bytes[end..]) {
        end = quoted_length(bytes, end + gap, escapes)?;
    }
    Some(end)
}

/// How far behind a constant the quote stands that continues it.
fn gap_before_continuation(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut is_new_line = false;
    loop {
        match bytes.get(at..)? {
            [b'\n' | b'\r', ..] => (at, is_new_line) = (at + 1, true),
            [byte, ..] if is_space(*byte) => at += 1,
            comment @ [b'-', b'-', ..] => {
                at += run_length(comment, |byte| !matches!(byte, b'\n' | b'\r'));
            }
            [b'\'', ..] if is_new_line => return Some(at),
            _ => return None,
        }
    }
}

/// Where a constant or identifier ends whose first quote stands here. A quote inside it is doubled.
/// `None` if it is not closed.
fn quoted_length(bytes: &[u8], first: usize, escapes: bool) -> Option<usize> {
    let quote = *bytes.get(first)?;
    let mut at = first + 1;
    loop {
        match *bytes.get(at)? {
            b'\\' if escapes => at += 2,
            byte if byte == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// `$tag$`, if the text begins with it and not with a lone dollar.
fn dollar_delimiter(bytes: &[u8]) -> Option<&[u8]> {
    let tag = run_length(&bytes[1..], |byte| continues_word(byte) && byte != b'$');
    bytes.get(..tag + 2).filter(|delimiter| delimiter.ends_with(b"$"))
}

/// The length of `$tag$…$tag$`; `None` if it is not closed.
fn dollar_quoted_length(bytes: &[u8], delimiter: &[u8]) -> Option<usize> {
    let body = &bytes[delimiter.len()..];
    let end = body.windows(delimiter.len()).position(|window| window == delimiter);
    end.map(|end| end + 2 * delimiter.len())
}

/// The length of a block comment; `None` if it is not closed. Block comments nest in PostgreSQL.
fn block_comment_length(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        match bytes.get(at..)? {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            [_, ..] => at += 1,
            [] => return None,
        }
    }
    Some(at)
}

/// The length of a number. What follows it without a space is a word of its own: PostgreSQL 14
/// reads `1into` as `1 INTO`, and later versions refuse it.
fn number_length(bytes: &[u8]) -> usize {
    let radix_digits = match bytes {
        [b'0', b'x' | b'X', rest @ ..] => digits_length(rest, u8::is_ascii_hexdigit),
        [b'0', b'o' | b'O', rest @ ..] => digits_length(rest, |byte| (b'0'..b'8').contains(byte)),
        [b'0', b'b' | b'B', rest @ ..] => digits_length(rest, |byte| (b'0'..b'2').contains(byte)),
        _ => 0,
    };
    if radix_digits > 0 {
        return 2 + radix_digits;
    }
    let decimals = |from: usize| digits_length(&bytes[from..], u8::is_ascii_digit);
    let mut end = decimals(0);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1) != Some(&b'.') {
        end += 1;
        end += decimals(end);
    }
    if let Some([b'e' | b'E', rest @ ..]) = bytes.get(end..) {
        let sign = usize::from(matches!(rest, [b'+' | b'-', ..]));
        let exponent = decimals(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    end
}

/// The length of digits, which single underscores may divide.
fn digits_length(bytes: &[u8], is_digit: impl Fn(&u8) -> bool) -> usize {
    let mut at = 0;
    loop {
        let underscore = usize::from(at > 0 && bytes.get(at) == Some(&b'_'));
        match bytes.get(at + underscore) {
            Some(byte) if is_digit(byte) => at += underscore + 1,
            _ => return at,
        }
    }
}

/// The length of an operator. A comment ends it, and it ends with `+` or `-` only if it holds a
/// character that the operators of standard SQL do not have.
fn operator_length(bytes: &[u8]) -> usize {
    // A longer operator is an error, unless it is cut back to its first characters here. So the
    // rest of a long run makes no difference, and each token takes the same time.
    let mut length = 0;
    let mut without_sign = 0;
    let mut is_standard = true;
    while let Some(&byte) = bytes.get(length).filter(|byte| is_operator(**byte)) {
        if length > MAX_OPERATOR || matches!(bytes[length..], [b'/', b'*', ..] | [b'-', b'-', ..]) {
            break;
        }
        length += 1;
        is_standard &= !is(byte, BEYOND_STANDARD);
        if !matches!(byte, b'+' | b'-') {
            without_sign = length;
        }
    }
    if is_standard { without_sign.max(1) } else { length }
}

#[cfg(test)]
mod tests;
