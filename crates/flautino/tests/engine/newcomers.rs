//! What a newcomer's mistakes say, as a `main` that returns the error prints it: what was tried, with which
//! node, and what to do.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_lab::{Bouncer, cluster, config};

/// As the `main` of the README does it, with a query. A warning counts too.
async fn run(config: EngineConfig) -> Result<(), Box<dyn Error>> {
    let engine = Engine::new(config)?;
    if let Some(warning) = engine.open().await?.warnings.first() {
        return Err(warning.as_str().into());
    }
    let query = sqlx::query_scalar::<_, i32>("SELECT $1 + 1").bind(1);
    let answer = query.fetch_one(&engine.handle()).await;
    engine.close().await;
    answer?;
    Ok(())
}

/// As Rust prints what `main` returns.
fn printed(result: Result<(), Box<dyn Error>>) -> String {
    result.map_or_else(|error| format!("Error: {error:?}"), |()| "no error".to_owned())
}

/// Whether the text is the pattern, in which `…` stands for anything.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = part;
    }
    rest.is_empty() || (pattern.ends_with('…') && last.is_empty())
}

/// Cause, and what is printed.
const TABLE: &[(&str, &str)] = &[
    (
        "a key that does not exist",
        "Error: the TOML text, line 1: `hots`: unknown field `hots`, expected one of `url`, `host`, …",
    ),
    (
        "a port out of range",
        "Error: the TOML text, line 1: `port`: 70000 is no port; expected 1 to 65535",
    ),
    (
        "a URL of another database",
        "Error: the URL: `url`: has another scheme than `postgres`; expected \
         postgres://user:password@host:port/database",
    ),
    (
        "a file that is not there",
        "Error: cannot read the configuration …/no-such.toml: No such file…",
    ),
    (
        "a name that is none",
        "Error: the configuration: `extra_nodes.a node`: a node's name is one word, without spaces and \
         control characters",
    ),
    (
        "no such host",
        "Error: no usable server within …s: node `main` (no-such-host.invalid:PRIMARY): …; is it running, \
         and do host and port in the configuration lead to it?",
    ),
    (
        "nothing listens",
        "Error: no usable server within …s: node `main` (127.0.0.1:1): …Connection refused…; is it \
         running, and do host and port in the configuration lead to it?",
    ),
    (
        "no such role",
        "Error: node `main` cannot be connected to (127.0.0.1:PRIMARY): role \"nobody_here\" does not \
         exist (28000); look at `user`, and at the server's pg_hba.conf",
    ),
    (
        "no such database",
        "Error: node `main` cannot be connected to (127.0.0.1:PRIMARY): database \"not_there\" does not \
         exist (3D000); create the database, or look at `database`",
    ),
    (
        "no right to connect",
        "Error: node `main` cannot be connected to (127.0.0.1:PRIMARY): permission denied for database \
         \"postgres\" (42501); grant it (`GRANT CONNECT ON DATABASE … TO …`), or look at `user` and \
         `database`",
    ),
    (
        "TLS is wanted and not offered",
        "Error: node `main` cannot be connected to (127.0.0.1:PRIMARY): …TLS…; …`ssl_mode = …",
    ),
    (
        "a replica in place of the primary",
        "Error: \"node `main` is a replica, so that nothing can be written: give the primary's address, or \
         name the primary under `extra_nodes`\"",
    ),
];

#[tokio::test]
async fn each_says_what_was_tried_with_which_node_and_what_to_do() {
    let cluster = cluster(1).await;
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    let weak = "CREATE ROLE weak LOGIN; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC";
    primary.execute(weak).await.unwrap();
    let startup_timeout = Duration::from_millis(300);
    let good = EngineConfig { startup_timeout, ..config(&cluster, "new") };
    let at = |url: String| {
        let mut config = EngineConfig { extra_nodes: BTreeMap::new(), ..good.clone() };
        config.main.url = Some(url);
        run(config)
    };
    let url = |user: &str, host: &str, rest: &str| {
        format!("postgres://{user}@{host}:{}/{rest}", primary.port())
    };
    let toml = |text: &str| EngineConfig::from_toml(text).map(drop).map_err(Box::from);
    let mut unnamed = good.clone();
    unnamed.extra_nodes.insert("a node".to_owned(), NodeConfig::default());
    let results = [
        toml("hots = 'localhost'"),
        toml("port = 70000"),
        EngineConfig::from_url("mysql://localhost/a").map(drop).map_err(Box::from),
        EngineConfig::read("no-such.toml".as_ref()).map(drop).map_err(Box::from),
        run(unnamed).await,
        at(url("postgres", "no-such-host.invalid", "postgres")).await,
        at("postgres://postgres@127.0.0.1:1/postgres".to_owned()).await,
        at(url("nobody_here", "127.0.0.1", "postgres")).await,
        at(url("postgres", "127.0.0.1", "not_there")).await,
        at(url("weak", "127.0.0.1", "postgres")).await,
        at(url("postgres", "127.0.0.1", "postgres?sslmode=require")).await,
        at(replica.url()).await,
    ];
    let [primary_port, replica_port] = [primary, replica].map(|node| node.port().to_string());
    let mut wrong = Vec::new();
    for ((cause, pattern), result) in TABLE.iter().zip(results) {
        let text = printed(result);
        let text = text.replace(&primary_port, "PRIMARY").replace(&replica_port, "REPLICA");
        println!("{cause}:\n    {text}");
        if !is_like(&text, pattern) {
            wrong.push((cause, text));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_pgbouncer_that_the_configuration_does_not_tell_of_says_which_key_to_set() {
    let cluster = cluster(0).await;
    let Some(bouncer) = Bouncer::start(cluster.primary()).await else { return };
    let mut config = config(&cluster, "bouncer");
    config.main.url = Some(format!("postgres://postgres@127.0.0.1:{}/postgres", bouncer.port));
    let text = printed(run(config).await);
    println!("{text}");
    assert!(text.contains("`pgbouncer = true`"), "{text}");
}
