//! The span around a statement. Its fields have the names of OpenTelemetry's conventions for PostgreSQL, the
//! stable ones; it has a summary of the text, and never the text.

use tracing::field::Empty;
use tracing::{Instrument, Level, Span};

use crate::node::Node;
use crate::router::Reason;
use crate::sql::summary;
use crate::sqlstate::{error_type, sqlstate};

/// A span of target `flautino`, if anyone listens.
pub(super) fn of(node: &Node, sql: &str, reason: Option<Reason>) -> Option<Span> {
    tracing::span_enabled!(target: "flautino", Level::DEBUG, node, reason).then(|| {
        let (summary, reason) = (summary(sql), reason.map(Reason::as_str));
        let (host, port) = node.server.host_and_port();
        tracing::debug_span!(
            target: "flautino",
            "statement",
            otel.name = summary,
            otel.kind = "client",
            otel.status_code = Empty,
            node = &**node.name(),
            reason,
            db.system.name = "postgresql",
            db.namespace = node.server.database(),
            db.query.summary = summary,
            db.response.status_code = Empty,
            "error.type" = Empty,
            server.address = host,
            // Signed, since `tracing-opentelemetry` makes texts of unsigned numbers.
            server.port = i64::from(port),
        )
    })
}

/// Does the work within the span. The caller pins it, as in [`run_cancellable`](super::cancel::run_cancellable).
pub(super) async fn within<T>(span: Option<&Span>, work: impl Future<Output = T> + Unpin) -> T {
    match span {
        Some(span) => work.instrument(span.clone()).await,
        None => work.await,
    }
}

/// Tells how the statement failed, if it did: by the server's code, where it comes from the server.
pub(super) fn tell<T>(span: Option<&Span>, result: &Result<T, sqlx::Error>) {
    let (Some(span), Err(error)) = (span, result) else { return };
    span.record("otel.status_code", "ERROR");
    if let Some(code) = sqlstate(error) {
        span.record("db.response.status_code", &*code);
    }
    span.record("error.type", &*error_type(error));
}
