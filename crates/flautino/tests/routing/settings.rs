//! `[routing]`: the defaults, and what is not acceptable.

use std::error::Error as _;
use std::time::Duration;

use flautino::{ConfigError, Consistency, EngineConfig, Fallback, RoutingMode};

/// The line in `[routing]`, and the key that the error must name.
const BAD: &[(&str, &str)] = &[
    ("mode = 'replica'", "mode"),
    ("mode = true", "mode"),
    ("consistency = 'linearizable'", "consistency"),
    ("consistency = 1", "consistency"),
    ("max_lag = 0", "max_lag"),
    ("max_lag = '0s'", "max_lag"),
    ("max_lag = -1", "max_lag"),
    ("max_lag = 'long'", "max_lag"),
    ("max_lag = '2 years'\ntoken_window = '2 years'", "max_lag"),
    ("fallback = 'never'", "fallback"),
    ("fallback = 0.5", "fallback"),
    ("fallback_share = 0", "fallback_share"),
    ("fallback_share = 0.0", "fallback_share"),
    ("fallback_share = -0.5", "fallback_share"),
    ("fallback_share = 1.01", "fallback_share"),
    ("fallback_share = nan", "fallback_share"),
    ("fallback_share = inf", "fallback_share"),
    ("fallback_share = '50%'", "fallback_share"),
    ("retries = 8", "retries"),
    ("retries = -1", "retries"),
    ("retries = 1.5", "retries"),
    ("retries = 4294967296", "retries"),
    ("retries = 'two'", "retries"),
    ("probe_interval = 0", "probe_interval"),
    ("probe_interval = '49ms'", "probe_interval"),
    ("probe_interval = false", "probe_interval"),
    ("probe_interval = '500d'", "probe_interval"),
    ("probe_timeout = 0", "probe_timeout"),
    ("probe_timeout = -2", "probe_timeout"),
    ("probe_timeout = []", "probe_timeout"),
    ("probe_timeout = '500d'", "probe_timeout"),
    ("failures_to_down = 0", "failures_to_down"),
    ("failures_to_down = 1001", "failures_to_down"),
    ("failures_to_down = '2'", "failures_to_down"),
    ("answers_to_up = 0", "answers_to_up"),
    ("answers_to_up = 1001", "answers_to_up"),
    ("answers_to_up = -1", "answers_to_up"),
    ("slow_start = -1", "slow_start"),
    ("slow_start = '500d'", "slow_start"),
    ("slow_start = 'slow'", "slow_start"),
    ("token_window = 0", "token_window"),
    ("token_window = '5s'", "token_window"),
    ("max_lag = '20s'", "token_window"),
    ("token_window = '500d'", "token_window"),
    ("token_window = true", "token_window"),
    ("position_rate = -1", "position_rate"),
    ("position_rate = 1001", "position_rate"),
    ("position_rate = 4294967296", "position_rate"),
    ("position_rate = 0.5", "position_rate"),
    ("position_rate = '5ms'", "position_rate"),
    ("token_wait = -1", "token_wait"),
    ("token_wait = '500d'", "token_wait"),
    ("token_wait = 'briefly'", "token_wait"),
    ("token_wait = true", "token_wait"),
    ("token_max_age = '500d'", "token_max_age"),
    ("token_max_age = -1", "token_max_age"),
    ("token_max_age = 'old'", "token_max_age"),
    ("token_keys = ['hunter2']", "token_keys"),
    ("token_keys = ['']", "token_keys"),
    ("token_keys = ['a-good-and-long-key-of-mine', 'hunter2']", "token_keys"),
    ("token_keys = 'hunter2-hunter2-hunter2'", "token_keys"),
    ("token_keys = [12345]", "token_keys[0]"),
    ("token_keys = ['a-good-and-long-key-of-mine', 12345]", "token_keys[1]"),
    ("token_keys = { hunter2 = 'hunter2' }", "token_keys"),
    ("statement_cache = 0", "statement_cache"),
    ("statement_cache = -1", "statement_cache"),
    ("statement_cache = 1000001", "statement_cache"),
    ("statement_cache = 'large'", "statement_cache"),
    ("max_lagg = '5s'", "max_lagg"),
    ("sticky = true", "sticky"),
];

const SECRETS: [&str; 3] = ["hunter2", "12345", "a-good-and-long-key"];

#[test]
fn each_mistake_is_an_error_that_names_the_key_and_no_secret() {
    let mut wrong = Vec::new();
    for (line, key) in BAD {
        let Err(err) = EngineConfig::from_toml(&format!("[routing]\n{line}")) else {
            wrong.push(format!("accepted: {line:?}"));
            continue;
        };
        let told = format!("{err} {err:?} {:?}", err.source());
        let ConfigError::Key { key: named, .. } = &err else {
            wrong.push(format!("not about a key: {line:?}: {err}"));
            continue;
        };
        let expected = format!("routing.{key}");
        let list = expected.split('[').next().unwrap();
        if *named != expected && named != list {
            wrong.push(format!("names `{named}`, not `{expected}`: {line:?}: {err}"));
        }
        if SECRETS.iter().any(|secret| told.contains(secret)) {
            wrong.push(format!("tells a secret: {line:?}: {told}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_same_holds_for_a_configuration_made_in_code() {
    let mut config = EngineConfig::from_url("postgres://127.0.0.1/db").unwrap();
    config.routing.token_keys = vec!["hunter2".to_owned()];
    let err = flautino::Engine::new(config.clone()).unwrap_err();
    assert!(err.to_string().contains("routing.token_keys"), "{err}");
    config.routing.token_keys = vec!["hunter2-hunter2-hunter2".to_owned()];
    config.routing.retries = 8;
    let err = flautino::Engine::new(config.clone()).unwrap_err();
    assert!(err.to_string().contains("routing.retries"), "{err}");
    config.routing.retries = 7;
    let told = format!("{config:?} {:?} {err:?}", flautino::Engine::new(config.clone()).unwrap());
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn values_at_the_edge_are_accepted() {
    for line in [
        "retries = 0",
        "retries = 7",
        "fallback_share = 1",
        "fallback_share = 0.0001",
        "probe_interval = '50ms'",
        "failures_to_down = 1\nanswers_to_up = 1000",
        "slow_start = 0",
        "max_lag = '15s'",
        "position_rate = 0\ntoken_wait = '1h'",
        "position_rate = 1000\ntoken_wait = 0",
        "token_max_age = 0",
        "token_keys = []",
        "token_keys = ['sixteen-letters!']",
        "statement_cache = 1\nmode = 'primary'",
        "statement_cache = 1000000\nfallback = 'refuse'\nconsistency = 'session'",
    ] {
        let config = EngineConfig::from_toml(&format!("[routing]\n{line}"));
        assert!(config.is_ok(), "{line:?}: {config:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let routing = EngineConfig::from_toml("host = 'localhost'").unwrap().routing;
    assert_eq!(routing.mode, RoutingMode::Auto);
    assert_eq!(routing.consistency, Consistency::ReadYourWrites);
    assert_eq!(routing.max_lag, Duration::from_secs(10));
    assert_eq!(routing.fallback, Fallback::Wait);
    assert!((routing.fallback_share - 0.5).abs() < f64::EPSILON);
    assert_eq!(routing.retries, 2);
    assert_eq!(routing.probe_interval, Duration::from_millis(500));
    assert_eq!(routing.probe_timeout, Duration::from_millis(500));
    assert_eq!((routing.failures_to_down, routing.answers_to_up), (2, 2));
    assert_eq!(routing.slow_start, Duration::from_secs(10));
    assert_eq!(routing.token_window, Duration::from_secs(15));
    assert_eq!((routing.position_rate, routing.token_wait), (200, Duration::ZERO));
    assert_eq!(routing.token_max_age, Duration::from_secs(600));
    assert!(routing.token_keys.is_empty());
    assert_eq!(routing.statement_cache, 1000);
}
