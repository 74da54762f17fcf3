//! One request, and what its answer means.

use std::time::Duration;

use flautino_axum::TOKEN_HEADER;
use reqwest::Response;

use super::Clients;
use super::choose::Choice;
use crate::app::Failure;
use crate::app::Work;
use crate::history::{Kind, Outcome};

/// How long a client waits at the most: longer than everything that an app may wait for.
const PATIENCE: Duration = Duration::from_secs(40);
/// What is noted where it waited in vain.
pub(crate) const NO_ANSWER: &str = "no answer";

/// What became of a request.
#[derive(Debug)]
pub(super) enum Asked {
    /// Nobody listened.
    NotSent,
    /// It was sent.
    Answered(Answer),
}

/// What the client knows then.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) status: u16,
    pub(super) error: Option<Box<str>>,
    pub(super) nodes: Box<str>,
    pub(super) seen: Vec<u64>,
    pub(super) token: Option<Box<str>>,
}

impl Answer {
    fn without_response(outcome: Outcome, error: Option<Box<str>>) -> Self {
        Self { outcome, status: 0, error, nodes: Box::default(), seen: Vec::new(), token: None }
    }
}

impl Clients {
    pub(super) async fn ask(&self, url: &str, choice: &Choice, token: Option<&str>) -> Asked {
        let mut request = if choice.kind.reads() {
            self.http.get(format!("{url}?key={}&seconds={}", choice.key, choice.seconds))
        } else {
            let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            self.http.post(url).json(&Work {
                key: signed(choice.key),
                ids: choice.ids.iter().map(|id| signed(*id)).collect(),
                seconds: choice.seconds,
            })
        };
        if let Some(token) = token {
            request = request.header(TOKEN_HEADER, token);
        }
        let answer = async {
            let response = request.send().await?;
            read(choice.kind, response).await
        };
        let patience = choice.leaves.unwrap_or(PATIENCE);
        Asked::Answered(match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) if error.is_connect() => return Asked::NotSent,
            Ok(Err(error)) => {
                Answer::without_response(Outcome::Unknown, Some(whole(&error).into()))
            }
            Err(_) if choice.leaves.is_some() => Answer::without_response(Outcome::Left, None),
            Err(_) => Answer::without_response(Outcome::Unknown, Some(NO_ANSWER.into())),
        })
    }
}

async fn read(kind: Kind, response: Response) -> Result<Answer, reqwest::Error> {
    let status = response.status().as_u16();
    let header = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(Box::from)
    };
    let token = header(TOKEN_HEADER.as_str());
    let timing: Box<str> = header("server-timing").unwrap_or_default();
    let entries: Vec<_> = timing.split("desc=\"").skip(1).collect();
    let entries = entries.iter().filter_map(|entry| entry.split('"').next());
    let nodes = entries.collect::<Vec<_>>().join(", ").into_boxed_str();
    let body = response.bytes().await?;
    let mut seen = Vec::new();
    let mut error = None;
    let outcome = match status {
        200 if kind.reads() => match serde_json::from_slice(&body) {
            Ok(ids) => {
                seen = ids;
                Outcome::Acknowledged
            }
            Err(wrong) => {
                error = Some(wrong.to_string().into());
                Outcome::Unknown
            }
        },
        200 => Outcome::Acknowledged,
        _ => match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => {
                error = Some(failure.error.into());
                seen = failure.rows;
                // Where the status says that it was not sent, the app's guess does not count.
                if failure.unknown && status != 503 { Outcome::Unknown } else { Outcome::Refused }
            }
            // The layer says so, of a `COMMIT`.
            Err(_) if kind == Kind::Spoiled => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        },
    };
    Ok(Answer { outcome, status, error, nodes, seen, token })
}

/// The error with its causes.
fn whole(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
