//! What the demo tells of itself: its log, metrics for Prometheus at `/metrics`, and traces by OTLP where
//! `OTEL_EXPORTER_OTLP_ENDPOINT` says where to, such as `http://localhost:4318`.

use std::error::Error;
use std::io::IsTerminal;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use flautino::metrics::BUCKETS;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::Key;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Instrument, Level, info_span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How often the recorder puts away what histograms have gathered since the last scrape.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Telemetry {
    prometheus: PrometheusHandle,
    /// `None` where nobody wants traces.
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts all three. Before the engine is made, which tells its metrics to the recorder that is there.
    pub(crate) fn start() -> Result<Self, Box<dyn Error>> {
        let traces = exporter()?.map(|exporter| {
            SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource())
                .build()
        });
        let spans = traces.as_ref().map(|traces| {
            // Spans of statements are of level DEBUG.
            let told = Targets::new()
                .with_target("flautino", Level::DEBUG)
                .with_target("notes", Level::INFO);
            tracing_opentelemetry::layer().with_tracer(traces.tracer("notes")).with_filter(told)
        });
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let log = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .with_filter(filter);
        tracing_subscriber::registry().with(log).with(spans).init();

        let builder = PrometheusBuilder::new().with_recommended_naming(true);
        let prometheus = builder.set_buckets(&BUCKETS)?.install_recorder()?;
        let upkeep = prometheus.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                upkeep.run_upkeep();
            }
        });
        Ok(Self { prometheus, traces })
    }

    /// The app with `/metrics`, and, where traces are wanted, with a span around each request that has its
    /// statements as children.
    pub(crate) fn around(&self, app: Router) -> Router {
        let prometheus = self.prometheus.clone();
        let app = if self.traces.is_some() { app.layer(from_fn(in_span)) } else { app };
        app.route("/metrics", get(async move || prometheus.render()))
    }

    /// Sends the traces that are not sent yet.
    pub(crate) async fn stop(self) {
        let Some(traces) = self.traces else { return };
        // Both wait for the collector, a few seconds at most.
        let stopping = tokio::task::spawn_blocking(move || {
            let flushed = traces.force_flush();
            traces.shutdown().and(flushed)
        });
        if let Ok(Err(error)) = stopping.await {
            eprintln!("notes: the last traces were not sent: {error}");
        }
    }
}

/// What the traces are of: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say so, else it is `notes`.
fn resource() -> Resource {
    let told = Resource::builder().build();
    let name = told.get(&Key::from_static_str("service.name"));
    match name.is_none_or(|name| name.as_str().starts_with("unknown_service")) {
        true => Resource::builder().with_service_name("notes").build(),
        false => told,
    }
}

fn exporter() -> Result<Option<SpanExporter>, Box<dyn Error>> {
    let is_set = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let wanted = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
    if !wanted.into_iter().any(is_set) {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_http().build();
    Ok(Some(exporter.map_err(|error| {
        format!("traces cannot be exported: {error}; OTEL_EXPORTER_OTLP_ENDPOINT is a URL such as http://localhost:4318")
    })?))
}

/// A span by OpenTelemetry's conventions for HTTP servers.
async fn in_span(request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let name = route.as_ref().map_or_else(|| method.clone(), |route| format!("{method} {route}"));
    let span = info_span!(
        "request",
        otel.name = name,
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
    );
    let response = next.run(request).instrument(span.clone()).await;
    // Unsigned numbers become texts on their way.
    span.record("http.response.status_code", i64::from(response.status().as_u16()));
    response
}
