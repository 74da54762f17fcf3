//! One request, and what its response means.

use std::time::Duration;

use flautino_axum::TOKEN_HEADER;
use reqwest::Response;

use super::choose::Choice;
use crate::app::{Failure, Work};
use crate::history::{Kind, NO_ANSWER, Outcome};

/// How long a client waits at most: longer than an app may wait for anything.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// What a client knows after a request.
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

/// Sends the request and reads the response. Returns `None` where nobody listened, so that nothing
/// was done.
pub(super) async fn ask(
    http: &reqwest::Client,
    url: &str,
    choice: &Choice,
    token: Option<&str>,
) -> Option<Answer> {
    let mut request = if choice.kind.is_read() {
        http.get(format!("{url}?key={}&seconds={}", choice.key, choice.seconds))
    } else {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        http.post(url).json(&Work {
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
    let timeout = choice.leaves.unwrap_or(REQUEST_TIMEOUT);
    Some(match tokio::time::timeout(timeout, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) if error.is_connect() => return None,
        Ok(Err(error)) => {
            Answer::without_response(Outcome::Unknown, Some(with_causes(&error).into()))
        }
        Err(_) if choice.leaves.is_some() => Answer::without_response(Outcome::Left, None),
        Err(_) => Answer::without_response(Outcome::Unknown, Some(NO_ANSWER.into())),
    })
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
        200 if kind.is_read() => match serde_json::from_slice(&body) {
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
                // 503 says for certain that nothing was done, whatever the app made of the error.
                if failure.unknown && status != 503 { Outcome::Unknown } else { Outcome::Refused }
            }
            // This response is the layer's own: it found the transaction aborted at its `COMMIT`.
            Err(_) if kind == Kind::Spoiled => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        },
    };
    Ok(Answer { outcome, status, error, nodes, seen, token })
}

/// The error with its causes.
fn with_causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
