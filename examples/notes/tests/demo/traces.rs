//! Traces by OTLP: what a collector gets.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use flautino_lab::wait_until;
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::child::{Demo, Place};

type Received = Arc<Mutex<Vec<Span>>>;

async fn receive(State(received): State<Received>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    received.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
}

/// A collector, for as long as the test runs.
async fn collector() -> (String, Received) {
    let received = Received::default();
    let app = Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&received));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, received)
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

fn text<'a>(span: &'a Span, key: &str) -> &'a str {
    match attribute(span, key) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

#[tokio::test]
async fn a_request_is_a_span_with_its_statements_as_children() {
    let (url, received) = collector().await;
    let place = Place::new();
    let mut command = place.command();
    let mut demo = Demo::start(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", url)).await;
    let note = serde_json::json!({ "title": "a secret" });
    let notes = format!("{}/notes", demo.url);
    demo.client.post(&notes).json(&note).send().await.unwrap().error_for_status().unwrap();
    // What is not sent yet is sent at the end.
    demo.send(Signal::SIGTERM);
    assert!(demo.ended().await.success(), "{}", place.stderr());

    let is_request = |span: &Span| span.name == "POST /notes";
    wait_until("the request's span has come", async || {
        received.lock().unwrap().iter().any(is_request)
    })
    .await;
    let spans = received.lock().unwrap().clone();
    let request = spans.iter().find(|span| is_request(span)).unwrap();
    assert_eq!(text(request, "http.route"), "/notes");
    assert_eq!(attribute(request, "http.response.status_code"), Some(&Value::IntValue(201)));
    let is_child = |span: &&Span| span.parent_span_id == request.span_id;
    let children: Vec<_> = spans.iter().filter(is_child).collect();
    let insert = children.iter().find(|span| span.name.starts_with("INSERT"));
    let insert = insert.unwrap_or_else(|| panic!("{children:#?}"));
    assert_eq!(insert.trace_id, request.trace_id);
    assert_eq!(text(insert, "db.system.name"), "postgresql");
    assert_eq!(text(insert, "node"), "main");
    assert!(matches!(attribute(insert, "server.port"), Some(Value::IntValue(_))), "{insert:#?}");
    assert!(!format!("{spans:?}").contains("secret"), "{spans:#?}");
}

#[tokio::test]
async fn a_collector_that_is_not_there_holds_nothing_up_and_is_told() {
    let place = Place::new();
    let mut command = place.command();
    let mut demo =
        Demo::start(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")).await;
    let notes = format!("{}/notes", demo.url);
    demo.client.get(&notes).send().await.unwrap().error_for_status().unwrap();
    demo.send(Signal::SIGTERM);
    assert!(demo.ended().await.success(), "{}", place.stderr());
    assert!(place.stderr().contains("the last traces were not sent"), "{}", place.stderr());
    place.assert_clean();
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_told_with_its_name() {
    let place = Place::new();
    let mut command = place.command();
    let mut demo = Demo::launch(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url"));
    assert!(!demo.ended().await.success());
    let told = place.stderr();
    assert!(told.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !told.contains("panicked"), "{told}");
}
