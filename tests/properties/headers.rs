//! Headers and cookies of any bytes through the layer: never an error, never a panic.

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use flautino::{Engine, EngineConfig};
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_lab::{cluster, config, open};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use crate::common::{cases, mutated};
use crate::tokens::{PIECES, some, valid};

type Headers = Vec<(&'static str, Vec<u8>)>;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let token = || prop_oneof![valid(), mutated(some(), PIECES, 4)];
    let signed = (token(), "[0-9A-Za-z_-]{0,50}").prop_map(|(token, key)| format!("{token}.{key}"));
    let text = prop_oneof![token().boxed(), signed.boxed(), "\\PC{0,40}".boxed()];
    let name = proptest::sample::select(
        &["flautino_token", "flautino_token_1", "flautino_token_", "theme", "", "flautino_token "]
            [..],
    );
    let cookie = (name, text, proptest::sample::select(&["=", "", "==", "=\"", " = "][..]))
        .prop_map(|(name, text, is)| format!("{name}{is}{text}"));
    let cookies = proptest::collection::vec(cookie, 0..40).prop_map(|all| all.join("; "));
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        token().prop_map(String::into_bytes),
        cookies.prop_map(String::into_bytes),
        proptest::collection::vec(token(), 0..20).prop_map(|all| all.join(", ").into_bytes()),
    ]
}

fn headers() -> impl Strategy<Value = Headers> {
    let name = proptest::sample::select(&["cookie", "flautino-token"][..]);
    proptest::collection::vec((name, bytes()), 0..6)
}

fn request(headers: &Headers) -> Request<Body> {
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    for (name, value) in headers {
        // What HTTP itself does not allow never gets here.
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    request
}

async fn handler(db: Db) -> Result<String, DbError> {
    Ok(sqlx::query_scalar("SELECT 'here'").fetch_one(&db).await?)
}

async fn writer(db: Db) -> Result<String, DbError> {
    Ok(sqlx::query_scalar("INSERT INTO t VALUES (1) RETURNING 'here'").fetch_one(&db).await?)
}

type Check = fn(&Response<Body>) -> Result<(), TestCaseError>;

fn is_ok(response: &Response<Body>) -> Result<(), TestCaseError> {
    prop_assert_eq!(response.status(), StatusCode::OK);
    Ok(())
}

/// A cookie's name and value are of visible ASCII characters, whatever the client sent.
fn sets_only_cookies(response: &Response<Body>) -> Result<(), TestCaseError> {
    for cookie in response.headers().get_all("set-cookie") {
        prop_assert!(cookie.to_str().is_ok(), "{:?}", cookie);
    }
    Ok(())
}

fn all_are(runtime: &Runtime, app: &Router, how_many: u32, check: Check) {
    let mut runner = TestRunner::new(cases(how_many));
    runner
        .run(&headers(), |headers| {
            let app = app.clone();
            let response = runtime.block_on(app.oneshot(request(&headers))).unwrap();
            check(&response)
        })
        .unwrap();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn requests_with_any_headers_are_served() {
    let runtime = runtime();
    let (cluster, engines) = runtime.block_on(async {
        let cluster = cluster(1).await;
        cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
        let mut engines = Vec::new();
        for keys in [vec![], vec!["a key of sixteen characters".to_owned()]] {
            let mut config = config(&cluster, "headers");
            config.routing.token_keys = keys;
            let engine = open(config).await;
            engines.push(engine);
        }
        (cluster, engines)
    });
    for engine in engines {
        for route in [get(handler), get(writer)] {
            let app = Router::new().route("/", route).layer(EngineLayer::new(engine.clone()));
            all_are(&runtime, &app, 250, is_ok);
        }
        runtime.block_on(engine.close());
    }
    runtime.block_on(cluster.stop());
}

fn unopened() -> Router {
    let text = "host = \"127.0.0.1\"\nport = 1\n[extra_nodes.r1]\nhost = \"127.0.0.1\"\nport = 2\n";
    let engine = Engine::new(EngineConfig::from_toml(text).unwrap()).unwrap();
    let idle = async |db: Db| drop(db);
    Router::new().route("/", get(idle)).layer(EngineLayer::new(engine))
}

#[test]
fn requests_with_any_headers_are_served_before_open() {
    all_are(&runtime(), &unopened(), 1500, is_ok);
}

#[test]
fn responses_to_any_headers_set_nothing_that_is_no_cookie() {
    all_are(&runtime(), &unopened(), 1500, sets_only_cookies);
}
