//! One operation of the load: how it was done, and with what result.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flautino::Error;
use flautino_lab::sqlstate;
use flautino_torture::history::{self, Carries, Kind, Outcome};
use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How something is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// A read of a new session.
    Read,
    /// A read that takes a while.
    SlowRead,
    /// A read of many rows.
    RowsRead,
    /// A read of the session that wrote.
    SessionRead,
    /// A read of another session with the token of the one that wrote.
    TokenRead,
    /// The same, with the token of a session that wrote a while ago.
    EarlierRead,
    /// A read over HTTP.
    HttpRead,
    /// A read over HTTP with the token of an earlier response.
    HttpTokenRead,
    /// One statement.
    Write,
    /// `begin`, a statement, `commit`.
    Transaction,
    /// The closure form, which may be retried.
    Closure,
    /// One statement, over HTTP.
    HttpWrite,
    /// `Tx`, over HTTP.
    HttpTx,
}

impl Way {
    /// Whether it is a read of a session that need not see anything in particular.
    pub(crate) fn is_free_read(self) -> bool {
        matches!(self, Self::Read | Self::SlowRead | Self::RowsRead | Self::HttpRead)
    }

    pub(crate) fn is_read(self) -> bool {
        self.kind().is_read()
    }

    /// What a history calls it.
    fn kind(self) -> Kind {
        match self {
            Self::Write | Self::HttpWrite => Kind::Insert,
            Self::Closure => Kind::Pair,
            Self::Transaction | Self::HttpTx => Kind::Import,
            _ => Kind::Read,
        }
    }
}

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(sqlx::Error),
    Status {
        status: u16,
        headers: HeaderMap,
        #[expect(dead_code, reason = "shown where a test fails")]
        body: String,
    },
    /// There was no response.
    Client(#[expect(dead_code, reason = "shown where a test fails")] reqwest::Error),
    /// The result is not what the query returns, whatever the tables hold.
    Wrong(#[expect(dead_code, reason = "shown where a test fails")] String),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Failure {
    /// A word to count failures of a kind by.
    fn kind(&self) -> String {
        match self {
            Self::Sql(error) => match Error::of(error) {
                Some(own) => {
                    let text = format!("{own:?}");
                    let end = text.find([' ', '(', '{']).unwrap_or(text.len());
                    let sent = if text.contains("sent: true") { " sent" } else { "" };
                    format!("{}{sent}", &text[..end])
                }
                None => match sqlstate(error) {
                    code if code.is_empty() => format!("{error:?}").chars().take(60).collect(),
                    code => code,
                },
            },
            Self::Status { status, headers, .. } => {
                let retry = if headers.contains_key(RETRY_AFTER) { " Retry-After" } else { "" };
                format!("{status}{retry}")
            }
            Self::Client(_) => "no response".to_owned(),
            Self::Wrong(_) => "wrong".to_owned(),
        }
    }

    /// The response's status; 0 where there was none.
    fn status(&self) -> u16 {
        if let Self::Status { status, .. } = self { *status } else { 0 }
    }
}

/// One read or write.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) way: Way,
    /// The id that was written, or looked for.
    pub(super) id: i64,
    pub(crate) started: Instant,
    pub(crate) took: Duration,
    /// The node that ran it, where that is known.
    pub(crate) node: Option<Arc<str>>,
    /// How many rows of the id a read found.
    pub(super) result: Result<i64, Failure>,
}

impl Op {
    pub(crate) fn is_done(&self) -> bool {
        self.result.is_ok()
    }

    pub(crate) fn ended(&self) -> Instant {
        self.started + self.took
    }

    /// Whether it was told that there is no primary, over HTTP with 503 and when to come again.
    pub(crate) fn found_no_primary(&self) -> bool {
        matches!(&*self.kind(), "NoPrimary" | "503 Retry-After")
    }

    /// A word for its failure, empty where it did not fail.
    pub(crate) fn kind(&self) -> String {
        self.result.as_ref().err().map(Failure::kind).unwrap_or_default()
    }

    /// The operation as a history records it, with times since `clock`.
    ///
    /// Every id is its own key. Only the session that wrote an id reads it, or one with its token, so
    /// all sessions may count as one client that carries its tokens.
    pub(super) fn record(&self, clock: Instant) -> history::Op {
        let kind = self.way.kind();
        // Only the id of no row, -1, is no `u64`.
        let id = u64::try_from(self.id).unwrap_or(u64::MAX);
        let (outcome, status, found) = match &self.result {
            Ok(found) => (Outcome::Acknowledged, 200, usize::try_from(*found).unwrap()),
            // It may have been done all the same.
            Err(failure) => (Outcome::Unknown, failure.status(), 0),
        };
        let start = self.started - clock;
        history::Op {
            client: 0,
            carries: Carries::Tokens,
            app: 0,
            kind,
            key: id,
            ids: if kind.is_read() { Vec::new() } else { vec![id] },
            seen: vec![id; found],
            start,
            end: start + self.took,
            outcome,
            status,
            error: Some(self.kind().into()),
            nodes: self.node.as_deref().unwrap_or_default().into(),
            sent: None,
            given: None,
        }
    }
}
