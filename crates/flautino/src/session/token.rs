//! [`Token`]: what a session must see, as a text that travels to its next request.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::router::{Lsn, Position};

/// What a session's next read must see, as a text for a cookie, a header or a field of a job.
///
/// The text is short, and consists of the characters `0-9a-z.`. It holds a WAL position: the
/// system, the timeline, and the place on it; of the primary's position also which transactions had
/// ended there. A checksum shows if part of the text was lost.
/// `flautino-axum` adds a signature if a key is configured.
///
/// ```
/// # async fn f(engine: flautino::Engine) -> Result<(), Box<dyn std::error::Error>> {
/// use flautino::Token;
///
/// let db = engine.handle();
/// sqlx::query("INSERT INTO jobs DEFAULT VALUES").execute(&db).await?;
/// let text = db.token().await.map(|token| token.to_string()); // travels with the job
///
/// let worker = engine.handle();
/// if let Some(text) = text {
///     worker.observe(&text.parse::<Token>()?); // sees the row, whichever node answers
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Token(Kind);

/// What a token demands of the next read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A node must have reached this position.
    At(Position),
    /// Reads go to the primary until then, in seconds since 1970, since no position could be
    /// learnt.
    PrimaryUntil(u64),
}

/// The error for a text that is not a [`Token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a token of flautino")]
pub struct ParseTokenError(());

/// The first field of the text: the version of its format.
const FORMAT: &str = "1";

impl Token {
    pub(crate) fn at(position: Position) -> Self {
        Self(Kind::At(position))
    }

    /// A token that makes reads go to the primary for this long.
    pub(crate) fn primary_for(window: Duration) -> Self {
        // Two seconds more, since both the current second and the window's last one may be partial.
        Self(Kind::PrimaryUntil(unix_seconds() + window.as_secs() + 2))
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// Whether it demands a position, and not the primary for a while.
    pub(crate) fn is_position(self) -> bool {
        matches!(self.0, Kind::At(_))
    }

    /// The one of two tokens of the same kind that demands more.
    pub(crate) fn later(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Kind::At(one), Kind::At(other)) => Self::at(one.later(other)),
            (Kind::PrimaryUntil(one), Kind::PrimaryUntil(other)) => {
                Self(Kind::PrimaryUntil(one.max(other)))
            }
            _ => self,
        }
    }
}

/// FNV-1a, 32 bits.
fn checksum(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl From<Position> for Token {
    fn from(position: Position) -> Self {
        Self::at(position)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            Kind::At(Position { system, timeline, lsn: Lsn(lsn), xid_horizon, .. }) => {
                let xid = xid_horizon.map(|xid| format!(".{xid:x}")).unwrap_or_default();
                format!("{FORMAT}.{system:x}.{timeline:x}.{lsn:x}{xid}")
            }
            Kind::PrimaryUntil(seconds) => format!("{FORMAT}.until.{seconds:x}"),
        };
        write!(f, "{text}.{:x}", checksum(&text))
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        fn number(text: &str) -> Result<u64, ParseTokenError> {
            // Accept only what `Display` writes, so that a token has only one text.
            let canonical = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
                && (text == "0" || !text.starts_with('0'));
            let number = canonical.then(|| u64::from_str_radix(text, 16).ok());
            number.flatten().ok_or(ParseTokenError(()))
        }
        let (text, sum) = text.rsplit_once('.').ok_or(ParseTokenError(()))?;
        if number(sum)? != u64::from(checksum(text)) {
            return Err(ParseTokenError(()));
        }
        let mut fields = text.split('.');
        let mut field = || fields.next().ok_or(ParseTokenError(()));
        if field()? != FORMAT {
            return Err(ParseTokenError(()));
        }
        let kind = match field()? {
            "until" => Kind::PrimaryUntil(number(field()?)?),
            system => {
                let (system, timeline) = (number(system)?, number(field()?)?);
                let timeline = u32::try_from(timeline).map_err(|_| ParseTokenError(()))?;
                let mut position = Position::new(system, timeline, Lsn(number(field()?)?));
                position.xid_horizon = fields.next().map(number).transpose()?;
                Kind::At(position)
            }
        };
        if fields.next().is_some() { Err(ParseTokenError(())) } else { Ok(Self(kind)) }
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

impl TryFrom<String> for Token {
    type Error = ParseTokenError;

    fn try_from(text: String) -> Result<Self, ParseTokenError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_printed_and_parsed() {
        let token = Token::at(Position::new(0x6b03_0bd3_4f02_1f2b, 2, Lsn(0x38e_8a00)));
        let text = token.to_string();
        assert!(text.starts_with("1.6b030bd34f021f2b.2.38e8a00."), "{text}");
        for length in 0..text.len() {
            assert!(text[..length].parse::<Token>().is_err(), "{}", &text[..length]);
        }
        for token in [
            token,
            Token::at(Position::new(0, 0, Lsn(0))),
            Token::at(Position::new(7, 1, Lsn(9)).with_xid_horizon(0x2_0000_0003)),
            Token::primary_for(Duration::from_secs(9)),
        ] {
            assert_eq!(token.to_string().parse(), Ok(token));
        }
    }

    #[test]
    fn a_text_that_is_not_a_token_is_refused() {
        for text in [
            "",
            "1",
            "1.",
            "1.2",
            "1.2.3",
            "1.2.3.4.5.6",
            "1.2.3.4.05",
            "1.2.3.4.x",
            "2.2.3.4",
            "1.2.3.4.",
            "1..3.4",
            "1.+2.3.4",
            "1.02.3.4",
            "1.2.3.G",
            "1.2.3.A",
            " 1.2.3.4",
            "1.2.100000000.4",
            "1.2.3.10000000000000000",
            "1.until",
            "1.until.",
            "1.until.x",
            "1.until.1.2",
            "until.1",
            "ä.2.3.4",
        ] {
            assert!(text.parse::<Token>().is_err(), "{text:?}");
            let with_checksum = format!("{text}.{:x}", checksum(text));
            assert!(with_checksum.parse::<Token>().is_err(), "{with_checksum:?}");
        }
    }
}
