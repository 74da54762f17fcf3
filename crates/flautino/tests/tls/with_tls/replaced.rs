//! Certificates that are replaced while an engine runs.

use flautino::{Engine, EngineConfig};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{open, reader, until_served_by, wait_until_or_tell};

use crate::common::{Authority, Files, config, is_encrypted, node_keys, show, speaking_tls, start};

fn verify_full(root: &str) -> String {
    format!("ssl_mode = 'verify-full'\nssl_root_cert = '{root}'")
}

/// Waits until the server shows a certificate that this configuration does not take.
async fn until_refused(config: &EngineConfig) {
    wait_until_or_tell(
        "the server shows its new certificate",
        async || {
            let engine = Engine::new(config.clone()).unwrap();
            let is_refused = engine.open().await.is_err();
            engine.close().await;
            is_refused
        },
        String::new,
    )
    .await;
}

#[tokio::test]
async fn connections_that_are_there_go_on_and_new_ones_go_by_the_files_of_now() {
    let [old, new] = ["old", "new"].map(Authority::new);
    let files = Files::new();
    let root = files.write("ca.crt", &old.pem());
    let cluster = start(speaking_tls(&old.server(&["localhost"]))).await;
    let config = config(cluster.primary(), &verify_full(&root));
    let engine = open(config.clone()).await;
    let db = engine.handle();
    let mut lease = db.acquire().await.unwrap();

    show(cluster.primary(), &new.server(&["localhost"])).await;
    until_refused(&config).await;
    sqlx::query("SELECT 1").execute(&mut lease).await.unwrap();
    // The one connection is out, so another has to be made.
    let said = db.acquire().await.unwrap_err().to_string();
    println!("{said}");
    for one in ["node `main`", "localhost:", "TLS", "`ssl_root_cert` is /", "ca.crt"] {
        assert!(said.contains(one), "no {one} in: {said}");
    }

    // The client's file is read for each connection.
    files.write("ca.crt", &new.pem());
    let second = db.acquire().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut lease).await.unwrap();
    drop((lease, second));
    assert!(is_encrypted(&db).await);
    engine.close().await;
}

/// A primary, and a replica as the node `replica`.
async fn with_replica(ours: &Authority, root: &str) -> (Cluster, Engine) {
    let cluster = start(speaking_tls(&ours.server(&["localhost"])).replicas(1)).await;
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    let keys = |node: &Node| node_keys(node, &verify_full(root));
    let text = format!(
        "extensions = []\n{}\n[routing]\nprobe_interval = '50ms'\nslow_start = 0\n\
         [extra_nodes.replica]\n{}",
        keys(cluster.primary()),
        keys(cluster.replica(0))
    );
    let engine = open(EngineConfig::from_toml(&text).unwrap()).await;
    until_served_by(&engine, &["replica"]).await;
    (cluster, engine)
}

/// Why the replica is not used; empty while it is.
fn reason(engine: &Engine) -> String {
    engine.status().nodes[1].reason.clone().unwrap_or_default()
}

#[tokio::test]
async fn a_node_whose_certificate_turns_bad_is_down_with_the_reason_until_it_is_mended() {
    let [ours, foreign] = ["ours", "foreign"].map(Authority::new);
    let files = Files::new();
    let (cluster, engine) = with_replica(&ours, &files.write("ca.crt", &ours.pem())).await;
    let replica = cluster.replica(0);
    let good = ours.server(&["localhost"]);
    let expired = (ours.expired_server(&["localhost"]), "renew the server's certificate");
    let untrusted = (foreign.server(&["localhost"]), "`ssl_root_cert`");
    for (bad, fix) in [expired, untrusted] {
        replica.stop().await.unwrap();
        // It is down for another reason first.
        let is_down = async || reason(&engine).contains("refused");
        wait_until_or_tell("the node is down", is_down, || reason(&engine)).await;
        replica.write_file("server.crt", &bad.certificate).unwrap();
        replica.write_file("server.key", &bad.key).unwrap();
        replica.start().await.unwrap();
        wait_until_or_tell(
            "the status tells why the node is down",
            async || {
                // Reads go on elsewhere.
                assert_eq!(reader(&engine).await.unwrap(), "main");
                reason(&engine).contains(fix)
            },
            || reason(&engine),
        )
        .await;
        let said = reason(&engine);
        println!("{said}");
        assert!(said.contains("node `replica`") && said.contains("TLS failed"), "{said}");

        show(replica, &good).await;
        until_served_by(&engine, &["replica"]).await;
        assert_eq!(reason(&engine), "");
    }
    engine.close().await;
}

/// The monitor's own connection goes on, so that it finds nothing wrong.
#[tokio::test]
async fn no_read_fails_because_a_replica_makes_no_new_connections() {
    let ours = Authority::new("ours");
    let files = Files::new();
    let (cluster, engine) = with_replica(&ours, &files.write("ca.crt", &ours.pem())).await;
    show(cluster.replica(0), &ours.expired_server(&["localhost"])).await;
    let more = verify_full(&files.path("ca.crt"));
    until_refused(&config(cluster.replica(0), &more)).await;

    let on_replica = engine.handle().node("replica").unwrap();
    let mut held = Vec::new();
    let said = loop {
        match on_replica.acquire().await {
            Ok(lease) => held.push(lease),
            Err(error) => break error.to_string(),
        }
    };
    println!("{said}");
    assert!(said.contains("node `replica`") && said.contains("renew"), "{said}");
    for _ in 0..50 {
        assert_eq!(reader(&engine).await.unwrap(), "main");
    }
    // They went to the replica first.
    assert!(engine.status().decisions["retried"] > 0, "{:#?}", engine.status());
    drop(held);
    engine.close().await;
}
