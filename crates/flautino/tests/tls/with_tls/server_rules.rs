//! What the server's `pg_hba.conf` demands, and the mode that does not meet it.

use flautino_lab::open;

use crate::common::{Authority, config, is_encrypted, refused, rules, speaking_tls, start};

#[tokio::test]
async fn a_server_for_encrypted_connections_alone_is_told_with_the_mode_to_take() {
    let identity = Authority::new("ours").server(&["localhost"]);
    let rule = rules("hostssl all app 127.0.0.1/32 trust");
    let cluster = start(speaking_tls(&identity).file("pg_hba.conf", rule)).await;
    for mode in ["disable", "allow"] {
        let said = refused(cluster.primary(), &format!("ssl_mode = '{mode}'")).await;
        assert!(said.contains("no encryption"), "{said}");
        assert!(said.contains("`ssl_mode = \"require\"`"), "{said}");
    }
    let engine = open(config(cluster.primary(), "ssl_mode = 'prefer'")).await;
    assert!(is_encrypted(&engine.handle()).await);
    engine.close().await;
}

#[tokio::test]
async fn a_server_for_plain_connections_alone_is_told_with_the_mode_to_take() {
    let identity = Authority::new("ours").server(&["localhost"]);
    let rule = rules("hostnossl all app 127.0.0.1/32 trust");
    let cluster = start(speaking_tls(&identity).file("pg_hba.conf", rule)).await;
    // Where libpq would go on without TLS after `prefer`, sqlx does not.
    for mode in ["prefer", "require"] {
        let said = refused(cluster.primary(), &format!("ssl_mode = '{mode}'")).await;
        assert!(said.contains("`ssl_mode = \"disable\"`"), "{said}");
    }
    let engine = open(config(cluster.primary(), "ssl_mode = 'allow'")).await;
    assert!(!is_encrypted(&engine.handle()).await);
    engine.close().await;
}
