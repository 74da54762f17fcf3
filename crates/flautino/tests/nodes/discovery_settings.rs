//! `[discovery]` in a configuration: defaults, and what is not acceptable.

use std::time::Duration;

use flautino::{ConfigError, DiscoveryConfig, Engine, EngineConfig};

fn of(discovery: &str) -> Result<EngineConfig, ConfigError> {
    EngineConfig::from_toml(&format!("host = \"primary.internal\"\n{discovery}"))
}

fn key(result: Result<EngineConfig, ConfigError>) -> (String, String) {
    match result.expect_err("it is not acceptable") {
        ConfigError::Key { key, message, .. } => (key, message),
        other => panic!("no key in {other:?}"),
    }
}

#[test]
fn without_it_nothing_is_resolved() {
    assert_eq!(of("").unwrap().discovery, None);
    assert_eq!(EngineConfig::default().discovery, None);
}

#[test]
fn its_name_is_enough() {
    let discovery = of("[discovery]\nhost = \"replicas\"").unwrap().discovery.unwrap();
    assert_eq!(discovery, DiscoveryConfig::new("replicas"));
    assert_eq!(discovery.host, "replicas");
    assert_eq!(discovery.port, None);
    assert_eq!(discovery.interval, Duration::from_secs(30));
}

#[test]
fn all_keys_are_read() {
    let text = "[discovery]\nhost = \"replicas\"\nport = 5433\ninterval = \"1s\"";
    let discovery = of(text).unwrap().discovery.unwrap();
    assert_eq!(discovery.port, Some(5433));
    assert_eq!(discovery.interval, Duration::from_secs(1));
    let text = "[discovery]\nhost = \"replicas\"\ninterval = 90";
    assert_eq!(of(text).unwrap().discovery.unwrap().interval, Duration::from_secs(90));
}

#[test]
fn what_is_not_acceptable_is_told_with_its_path() {
    let long = format!("host = \"r\"\ninterval = \"{}days\"", 400);
    let cases = [
        ("host = \"r\"\nname = \"x\"", "discovery.name"),
        ("host = \"r\"\nport = 0", "discovery.port"),
        ("host = \"r\"\nport = -1", "discovery.port"),
        ("host = \"r\"\nport = 65536", "discovery.port"),
        ("host = \"r\"\nport = \"5432\"", "discovery.port"),
        ("host = \"r\"\ninterval = \"999ms\"", "discovery.interval"),
        ("host = \"r\"\ninterval = 0", "discovery.interval"),
        ("host = \"r\"\ninterval = -1", "discovery.interval"),
        ("host = \"r\"\ninterval = \"soon\"", "discovery.interval"),
        (&long, "discovery.interval"),
        ("host = \"\"", "discovery.host"),
        ("host = \"two words\"", "discovery.host"),
        ("host = \"/run/postgresql\"", "discovery.host"),
        ("host = 5", "discovery.host"),
    ];
    for (keys, path) in cases {
        let (key, message) = key(of(&format!("[discovery]\n{keys}")));
        assert_eq!(key, path, "{keys}: {message}");
        assert!(!message.is_empty());
    }
    // Without a name it is nothing.
    let (key, message) = key(of("[discovery]\nport = 5432"));
    assert!(key.starts_with("discovery") && message.contains("host"), "{key}: {message}");
    // Nor is it a plain string.
    assert!(key_of("discovery = \"replicas\"").starts_with("discovery"));
}

fn key_of(text: &str) -> String {
    key(of(text)).0
}

#[test]
fn a_main_node_on_a_unix_socket_cannot_be_the_model() {
    for main in ["host = \"/run/postgresql\"", "url = \"postgres:///db?host=/run/postgresql\""] {
        let text = format!("{main}\n[discovery]\nhost = \"replicas\"");
        let (key, message) = key(EngineConfig::from_toml(&text));
        assert_eq!(key, "discovery", "{message}");
        assert!(message.contains("host name"), "{message}");
    }
}

#[test]
fn values_are_checked_as_text_is() {
    let mut config = EngineConfig::from_url("postgres://localhost/db").unwrap();
    let mut discovery = DiscoveryConfig::new("");
    config.discovery = Some(discovery.clone());
    let error = Engine::new(config.clone()).unwrap_err();
    assert!(error.to_string().contains("discovery.host"), "{error}");
    discovery.host = "replicas".to_owned();
    discovery.interval = Duration::from_millis(10);
    config.discovery = Some(discovery.clone());
    let error = Engine::new(config.clone()).unwrap_err();
    assert!(error.to_string().contains("discovery.interval"), "{error}");
    discovery.interval = Duration::from_secs(1);
    discovery.port = Some(0);
    config.discovery = Some(discovery);
    let error = Engine::new(config).unwrap_err();
    assert!(error.to_string().contains("discovery.port"), "{error}");
}
