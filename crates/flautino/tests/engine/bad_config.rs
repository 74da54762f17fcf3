//! A configuration that is not acceptable: an error with the key's path and without a secret.

use std::error::Error as _;

use flautino::{ConfigError, Engine, EngineConfig, OpenError, PoolConfig};

/// The text, and what the error must name.
const BAD: &[(&str, &str)] = &[
    ("prot = 5432", "prot"),
    ("[pool]\nmax_conections = 3", "pool.max_conections"),
    ("[extra_nodes.a]\nhots = 'h'", "extra_nodes.a.hots"),
    ("[extra_nodes.a]\nextensions = []", "extra_nodes.a.extensions"),
    ("[extra_nodes.a.pool]\nmax_connections = 2", "extra_nodes.a.pool"),
    ("port = '5432'", "port"),
    ("host = 5", "host"),
    ("log_queries = 'yes'", "log_queries"),
    ("extensions = 'uuid-ossp'", "extensions"),
    ("extensions = ['a', 5]", "extensions[1]"),
    ("extensions = ['a', '']", "extensions[1]"),
    ("pool = 20", "pool"),
    ("[pool]\nmax_connections = '20'", "pool.max_connections"),
    ("options = { work_mem = 7 }", "options.work_mem"),
    ("statement_cache_capacity = -1", "statement_cache_capacity"),
    ("pgbouncer = 'yes'", "pgbouncer"),
    ("port = 0", "port"),
    ("port = 70000", "port"),
    ("port = -1", "port"),
    ("[extra_nodes.a]\nport = 0", "extra_nodes.a.port"),
    ("url = 'nonsense'", "url"),
    ("url = ''", "url"),
    ("url = 'mysql://u:hunter2@h/db'", "url"),
    ("url = 'postgres://u:hunter2@h:99999/db'", "url"),
    ("url = 'postgres://u:hunter2@h:0/db'", "url"),
    ("url = 'postgres://u:hunter2@h/db?port=0'", "url"),
    ("url = 'postgres://u:hunter2@h/db?port=x'", "url"),
    ("url = 'postgres://u:hunter2@h/db?sslmod=disable'", "url"),
    ("url = 'postgres://u:hunter2@h/db?sslmode=sometimes'", "url"),
    ("url = 'postgres://u:hunter2/x@h/db'", "url"),
    ("url = 'postgres://u:1/hunter2@h/db'", "url"),
    ("url = 'postgres://u:1?hunter2@h/db'", "url"),
    ("url = 'postgres://u:1#hunter2@h/db'", "url"),
    ("url = 'postgres://u:hunter2#@h/db'", "url"),
    ("url = 'postgres://u:hun/ter2?x@h/db'", "url"),
    ("url = 'postgres://u:hunter2@h/db#x'", "url"),
    ("url = 'postgres://u:a@b?hunter2@h/db'", "url"),
    ("url = 'postgres://u:1/?hunter2@h/db'", "url"),
    ("url = 'postgres://u:hunter2@h1:1,h2:2/db'", "url"),
    ("url = 'postgres://u:hunter2@h1,h2/db'", "url"),
    ("url = 'postgres://u:hunter2@/db?host=h1,h2'", "url"),
    ("url = 'postgres://u:hunter2@h/db?port=1,2'", "url"),
    ("url = 'postgres://u:hunter2@::1/db'", "url"),
    ("url = 'postgres://u:hunter2@[::1/db'", "url"),
    ("url = 'postgres://u:hunter2@[h]/db'", "url"),
    ("url = 'postgres://u:hunter2@h/db?hostaddr=127.0.0.1'", "url"),
    ("url = 'postgres://u:hunter2@/db?hostaddr=h'", "url"),
    ("url = 'postgres://u:hunter2@h/db?channel_binding=require'", "url"),
    ("url = 'postgres://u:hunter2@h/db?target_session_attrs=read-write'", "url"),
    ("url = 'postgres://u:hunter2@h/db?keepalives_idle=30'", "url"),
    ("url = 'postgres://u:hunter2@h/db?connect_timeout=soon'", "url"),
    ("url = 'postgres://u:hunter2@h/db?connect_timeout=0'", "connect_timeout"),
    ("url = 'postgres://u:hunter2@h/db?sslpassword=hunter2'", "url"),
    ("url = 'postgres://u:hunter2@h/db?options[a=b'", "url"),
    ("url = 'postgres://u:hunter2@h/db?pgbouncer=true'", "url"),
    ("url = 'host=h password=hunter2'", "url"),
    ("host = 'h1,h2'", "host"),
    ("host = ''", "host"),
    ("host = '[h]'", "host"),
    ("host = '/run/.s.PGSQL.5433'\nport = 5432", "port"),
    ("target_session_attrs = 'primary'", "target_session_attrs"),
    ("channel_binding = 'require'", "channel_binding"),
    ("keepalives = 1", "keepalives"),
    ("service = 'hunter2'", "service"),
    ("sslpassword = 'hunter2'", "sslpassword"),
    ("passfile = '/a/b'", "passfile"),
    ("sslmode = 'sometimes'", "ssl_mode"),
    ("sslmode = 'require'\nssl_mode = 'require'", "sslmode"),
    ("ssl_mode = 'require'\nsslmode = 'require'", "sslmode"),
    ("ssl_root_cert = 'system'", "ssl_root_cert"),
    ("[pool]\nsslmode = 'require'", "pool.sslmode"),
    ("[extra_nodes.a]\ngssencmode = 'require'", "extra_nodes.a.gssencmode"),
    ("url = ['postgres://u:hunter2@h/db']", "url"),
    ("url = 'postgres://u:hunter2@h/db'\nhost = 'h'", "host"),
    ("url = 'postgres://u:hunter2@h/db'\nport = 5432", "port"),
    ("[extra_nodes.a]\nurl = 'postgres://u:hunter2@h/db?x=1'", "extra_nodes.a.url"),
    ("[extra_nodes.main]\nhost = 'h'", "extra_nodes.main"),
    ("[extra_nodes.'a b']\nhost = 'h'", "extra_nodes.a b"),
    ("[pool]\nmax_connections = 0", "pool.max_connections"),
    ("[pool]\nmax_connections = 4294967295", "pool.max_connections"),
    ("[pool]\nmax_connections = 4294967296", "pool.max_connections"),
    ("[pool]\nmax_connections = -1", "pool.max_connections"),
    ("[pool]\nmax_connections = 2\nmin_connections = 3", "pool.min_connections"),
    ("[pool]\nacquire_timeout = '5 parsecs'", "pool.acquire_timeout"),
    ("[pool]\nacquire_timeout = 0", "pool.acquire_timeout"),
    ("[pool]\nidle_timeout = -1", "pool.idle_timeout"),
    ("drain_timeout = 'soon'", "drain_timeout"),
    ("startup_timeout = -0.5", "startup_timeout"),
    ("statement_timeout = true", "statement_timeout"),
    ("password = 12345", "password"),
    ("password = ['hunter2']", "password"),
    ("password = { hunter2 = 'hunter2' }", "password"),
    ("[extra_nodes.a]\npassword = 12345", "extra_nodes.a.password"),
    ("[extra_nodes]\na = 'postgres://u:hunter2@h/db'", "extra_nodes.a"),
    ("[extra_nodes]\nurl = 'postgres://u:hunter2@h/db'", "extra_nodes.url"),
    ("extra_nodes = 'postgres://u:hunter2@h/db'", "extra_nodes"),
    ("discovery = 'postgres://u:hunter2@h/db\", expected'", "discovery"),
    ("options = 'password=hunter2'", "options"),
    ("port = 'hunter2'", "port"),
    ("ssl_mode = 'sometimes'", "ssl_mode"),
    ("log_statements = 'loud'", "log_statements"),
    ("pgbouncer = true\nstatement_timeout = '5s'", "statement_timeout"),
    ("pgbouncer = true\nclient_check_interval = '5s'", "client_check_interval"),
    ("pgbouncer = true\nstatement_cache_capacity = 10", "statement_cache_capacity"),
    ("pgbouncer = true\nurl = 'postgres://h/db?statement-cache-capacity=10'", "url"),
    ("pgbouncer = true\nextra_float_digits = 3", "extra_float_digits"),
    ("[extra_nodes.a]\npgbouncer = true\nstatement_timeout = 1", "extra_nodes.a.statement_timeout"),
];

#[test]
fn each_mistake_is_an_error_that_names_the_key_and_no_secret() {
    let mut wrong = Vec::new();
    for (text, key) in BAD {
        let Err(err) = EngineConfig::from_toml(text) else {
            wrong.push(format!("accepted: {text:?}"));
            continue;
        };
        let told = format!("{err} {err:?} {:?}", err.source());
        let ConfigError::Key { key: named, .. } = &err else {
            wrong.push(format!("not about a key: {text:?}: {err}"));
            continue;
        };
        // The path of an unknown key may end at the table that holds it, if the text names it.
        let last = key.rsplit('.').next().unwrap_or(key);
        let table = key.strip_suffix(last).unwrap_or("").trim_end_matches('.');
        let table = if table.is_empty() { "top level" } else { table };
        if named != key && !(named == table && err.to_string().contains(last)) {
            wrong.push(format!("names `{named}`, not `{key}`: {text:?}: {err}"));
        }
        if told.contains("hunter2") || told.contains("12345") {
            wrong.push(format!("tells a secret: {text:?}: {told}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn malformed_toml_is_an_error_with_its_place_and_without_the_line() {
    for (text, place) in [
        ("host = 'h'\npassword = \"hunter2", "line 2"),
        ("password = 'hunter2' 'x'", "line 1"),
        ("password = hunter2", "line 1"),
        ("host = 'h'\n\npassword = 'a'\npassword = 'hunter2'", "line 4"),
        ("url = 'postgres://u:hunter2@h'\n[pool", "line 2"),
        ("host", "line 1"),
    ] {
        let err = EngineConfig::from_toml(text).unwrap_err();
        assert!(matches!(err, ConfigError::Syntax { .. }), "{text:?}: {err:?}");
        let told = format!("{err} {err:?}");
        assert!(told.contains(place), "{text:?}: {told}");
        assert!(!told.contains("hunter2"), "{text:?}: {told}");
    }
}

#[test]
fn a_bad_url_is_an_error_without_the_url() {
    for url in [
        "",
        "hunter2",
        "postgres://u:hunter2@h:port/db",
        "postgres://u:hunter2@[::1/db",
        "http://u:hunter2@h/db",
        "postgres://u:hunter2@h/db?unknown=1",
        "postgres://u:hunter2@h/db?statement-cache-capacity=many",
    ] {
        let err = EngineConfig::from_url(url).unwrap_err();
        assert!(!format!("{err} {err:?}").contains("hunter2"), "{url}: {err}");
    }
}

#[tokio::test]
async fn settings_given_to_open_with_are_checked_too() {
    let engine = Engine::new(EngineConfig::from_url("postgres://127.0.0.1:1/db").unwrap()).unwrap();
    for (max_connections, min_connections, key) in
        [(0, 0, "max_connections"), (u32::MAX, 0, "max_connections"), (1, 2, "min_connections")]
    {
        let pool = PoolConfig { max_connections, min_connections, ..PoolConfig::default() };
        let err = engine.open_with(pool).await.unwrap_err();
        assert!(matches!(err, OpenError::Config(_)), "{err:?}");
        assert!(err.to_string().contains(key), "{err}");
    }
}
