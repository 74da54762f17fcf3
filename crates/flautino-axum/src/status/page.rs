//! The status page, and the stream of events that keeps it live.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use axum_core::response::{IntoResponse, Response};
use flautino::{Engine, StatementWatch};
use futures_core::Stream;
use futures_util::stream;
use http::{HeaderValue, header};
use tokio::time::{Interval, MissedTickBehavior};

const PAGE: &str = include_str!("page.html");
/// How often the page is told the engine's status.
const EVERY: Duration = Duration::from_secs(1);
/// All that the page needs is in it, and it talks to nobody but its own server.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'self'";

pub(super) fn routes<S>(engine: Engine) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/status", get(async || page()))
        .route("/status/events", get(async move || events(engine.clone())))
}

fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, PAGE).into_response()
}

/// What the stream says next.
enum Next {
    Settings,
    Status,
    Nothing,
}

/// A page that looks. While there is one, the engine counts statements.
struct Watcher {
    engine: Engine,
    _statements: StatementWatch,
    ticks: Interval,
    next: Next,
}

/// The engine's settings, and then its status each second, until it shuts down.
fn events(engine: Engine) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let statements = engine.watch_statements();
    let watcher = Watcher { engine, _statements: statements, ticks, next: Next::Settings };
    Sse::new(stream::unfold(watcher, async |mut watcher| {
        let event = watcher.next_event().await?;
        Some((Ok(event), watcher))
    }))
}

impl Watcher {
    async fn next_event(&mut self) -> Option<Event> {
        let (name, json) = match self.next {
            Next::Settings => {
                self.next = Next::Status;
                ("settings", serde_json::to_string(&self.engine.settings()))
            }
            Next::Status => {
                self.ticks.tick().await;
                if !self.engine.is_ready() {
                    // The last word: a stream that went on would hold up the app's shutdown.
                    self.next = Next::Nothing;
                }
                ("status", serde_json::to_string(&self.engine.status()))
            }
            Next::Nothing => return None,
        };
        match json {
            Ok(json) => Some(Event::default().event(name).data(json)),
            Err(error) => {
                tracing::error!(%error, "the status could not be written as JSON");
                None
            }
        }
    }
}
