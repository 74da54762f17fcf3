//! Whatever an engine connects for, it does so over TLS.

use std::time::Duration;

use flautino::{Engine, EngineConfig, Event};
use flautino_cluster::Node;
use flautino_lab::{running, until_running, wait_until};

use crate::common::{
    Authority, Files, is_encrypted, node_keys, refused, rules, speaking_tls, start,
};

/// What the server says where a connection is not encrypted.
const REFUSAL: &str = "no pg_hba.conf entry";

/// The sessions of the engine's role: their names, and whether each is encrypted.
async fn sessions(node: &Node) -> Vec<(String, bool)> {
    let mut connection = node.connect().await.unwrap();
    let sql = "SELECT application_name, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
               WHERE usename = 'app'";
    sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap()
}

#[tokio::test]
async fn servers_for_encrypted_connections_alone_see_no_other() {
    let (ours, files) = (Authority::new("ours"), Files::new());
    let root = files.write("ca.crt", &ours.pem());
    let rule = rules("hostssl all app 127.0.0.1/32 trust");
    let builder = speaking_tls(&ours.server(&["localhost"])).file("pg_hba.conf", rule);
    let cluster = start(builder.replicas(1)).await;
    let (primary, replica) = (cluster.primary(), cluster.replica(0));
    replica.catch_up_with(primary).await.unwrap();

    let tls = format!(
        "ssl_mode = 'verify-full'\nssl_root_cert = '{root}'\napplication_name = 'a'\n\
         client_check_interval = 0"
    );
    let (main, other) = (node_keys(primary, &tls), node_keys(replica, &tls));
    let text = format!(
        "extensions = []\n{main}\n[pool]\nmax_connections = 1\n[extra_nodes.replica]\n{other}"
    );
    let engine = Engine::new(EngineConfig::from_toml(&text).unwrap()).unwrap();
    let db = engine.handle();
    let on_replica = db.node("replica").unwrap();

    // Before `open`, each has a connection of its own.
    assert!(is_encrypted(&db).await && is_encrypted(&on_replica).await);
    assert!(engine.open().await.unwrap().warnings.is_empty());
    assert!(is_encrypted(&db).await && is_encrypted(&on_replica).await);
    let mut tx = db.begin().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    drop(db.acquire().await.unwrap());

    // The position for a token is asked for.
    sqlx::query("CREATE TEMPORARY TABLE t ()").execute(&db).await.unwrap();
    assert!(db.token().await.is_some());

    // The pool has one connection, so that cancelling needs another.
    let sleep = "SELECT pg_sleep(600)";
    let handle = db.clone();
    let sleeping = tokio::spawn(async move { sqlx::query(sleep).execute(&handle.primary()).await });
    until_running(primary, "a", sleep).await;
    sleeping.abort();
    wait_until("the statement is cancelled", async || running(primary, "a", sleep).await == 0)
        .await;
    assert!(primary.log().contains("canceling statement due to user request"));
    let cancelling = sessions(primary).await;
    assert!(is_encrypted(&db).await);

    let mut listener = engine.listen(["news"]).await.unwrap();
    sqlx::query("NOTIFY news").execute(&db.primary()).await.unwrap();
    assert!(matches!(listener.next().await, Some(Event::Notification(_))));

    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let pool = engine.pool("main").unwrap();
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(&pool).await.unwrap());

    let now = sessions(primary).await;
    for purpose in ["a", "a (listening)"] {
        assert!(now.iter().any(|(name, _)| name == purpose), "no {purpose:?} in {now:?}");
    }
    for (name, is_encrypted) in now.iter().chain(&cancelling) {
        assert!(is_encrypted, "{name}");
    }
    let probes = |engine: &Engine| engine.status().nodes[1].probes;
    let before = probes(&engine);
    wait_until("the replica is probed", async || probes(&engine) > before).await;
    drop(listener);
    tokio::time::timeout(Duration::from_secs(60), engine.close()).await.unwrap();

    for node in cluster.nodes() {
        assert!(!node.log().contains(REFUSAL), "{}", node.log());
    }
    // It would have been seen.
    refused(primary, "ssl_mode = 'disable'").await;
    assert!(primary.log().contains(REFUSAL));
}
