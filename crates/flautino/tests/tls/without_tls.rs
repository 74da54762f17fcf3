//! A build without any of the `tls-…` features.

use flautino::Engine;
use flautino_lab::open;

use crate::common::{Authority, config, is_encrypted, refused, speaking_tls, start};

#[tokio::test]
async fn what_requires_tls_fails_and_says_which_features_there_are() {
    let cluster = start(speaking_tls(&Authority::new("ours").server(&["localhost"]))).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let more = format!("ssl_mode = '{mode}'");
        let said = refused(cluster.primary(), &more).await;
        println!("{said}");
        assert!(said.contains("built without TLS") && said.contains("`tls-rustls-ring`"), "{said}");
        // Before `open` as well.
        let engine = Engine::new(config(cluster.primary(), &more)).unwrap();
        let said = sqlx::query("SELECT 1").execute(&engine.handle()).await.unwrap_err().to_string();
        assert!(said.contains("node `main`") && said.contains("`tls-rustls-ring`"), "{said}");
    }
}

#[tokio::test]
async fn prefer_goes_on_without_tls() {
    let cluster = start(speaking_tls(&Authority::new("ours").server(&["localhost"]))).await;
    for mode in ["disable", "allow", "prefer"] {
        let engine = open(config(cluster.primary(), &format!("ssl_mode = '{mode}'"))).await;
        assert!(!is_encrypted(&engine.handle()).await, "{mode}");
        engine.close().await;
    }
}
