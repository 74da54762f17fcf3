//! Keys show nowhere.

use flautino::{Engine, EngineConfig};
use flautino_axum::EngineLayer;
use flautino_lab::{Capture, config, settings};

use crate::browser::{Browser, headers};
use crate::common::Pair;

const KEYS: [&str; 2] = ["first-key-0123456789", "second-key-0123456789"];

fn keyed(config: &mut EngineConfig) {
    settings::lively(config);
    config.log_queries = true;
    config.log_responses = true;
    config.routing.token_keys = KEYS.map(str::to_owned).into();
}

#[track_caller]
fn assert_secret(text: &str, what: &str) {
    for key in KEYS {
        assert!(!text.contains(key), "{what} shows a key: {text}");
    }
}

#[tokio::test]
async fn keys_show_in_no_response_no_log_and_no_status() {
    let log = Capture::start();
    let pair = Pair::start(keyed).await;
    let mut browser = Browser::default();
    let paths = [
        "set/a/1",
        "value/a",
        "refused",
        "set-in-transaction/a/2/200",
        "set-in-transaction/a/3/409",
        "set-and-panic/a/4",
        "status.json",
        "readyz",
        "nowhere",
    ];
    for round in 0..2 {
        for path in paths {
            let answer = browser.get(&pair.url(round, path)).await;
            assert_secret(&format!("{answer:?}"), path);
        }
        browser.cookies.push(("flautino_token_1".into(), "1.1.1.1~00".into()));
    }
    let sent = headers(&[("flautino-token", "garbage~zz")]);
    let answer = crate::browser::get(&browser.client, &pair.url(0, "value/a"), sent).await;
    assert_secret(&format!("{answer:?}"), "a bad token");
    for engine in &pair.engines {
        assert_secret(&format!("{engine:?} {:#?}", engine.routing()), "Debug of the engine");
        assert_secret(&format!("{:?}", engine.status()), "Debug of the status");
        assert_secret(&format!("{:?}", engine.settings()), "the settings");
        assert_secret(&serde_json::to_string(&engine.status()).unwrap(), "the status");
        assert_secret(&format!("{:?}", EngineLayer::new(engine.clone())), "Debug of the layer");
        assert_secret(&format!("{:?}", engine.handle()), "Debug of a handle");
    }
    let cluster = &pair.cluster;
    let mut config = config(cluster, "tokens");
    keyed(&mut config);
    assert_secret(&format!("{config:?} {config:#?}"), "Debug of the configuration");
    pair.stop().await;
    let events = log.all();
    assert!(events.iter().any(|event| event.target == "flautino::query"));
    assert_secret(&format!("{events:?}"), "the log");
}

#[test]
fn an_error_about_a_key_does_not_quote_it() {
    for (keys, secret) in [
        ("[\"short-secret\"]", "short-secret"),
        // A list is forgotten easily.
        ("\"whole-secret-0123456\"", "whole-secret"),
        ("[\"fine-secret-0123456789\", 12345678901234]", "12345678901234"),
        ("[[\"nested-secret-0123\"]]", "nested-secret"),
    ] {
        let text = format!("url = \"postgres://localhost/a\"\n[routing]\ntoken_keys = {keys}");
        let told = match EngineConfig::from_toml(&text) {
            Ok(config) => format!("{0} {0:?}", Engine::new(config).unwrap_err()),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(told.contains("token_keys"), "{told}");
        assert!(!told.contains(secret), "{told}");
        assert!(!told.contains("fine-secret"), "{told}");
    }
}
