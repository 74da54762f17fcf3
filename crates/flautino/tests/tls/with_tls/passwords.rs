//! Passwords over TLS.

use flautino_lab::open;

use crate::common::{
    Authority, Files, PASSWORD, config, is_encrypted, refused_of, rules, speaking_tls, start,
};

/// A server offers to bind SCRAM to the channel when it is encrypted. sqlx does not take that up, and logs in
/// all the same.
#[tokio::test]
async fn scram_logs_in_over_tls_and_a_wrong_password_is_told() {
    let (ours, files) = (Authority::new("ours"), Files::new());
    let root = files.write("ca.crt", &ours.pem());
    let builder = speaking_tls(&ours.server(&["localhost"]));
    let rule = rules("hostssl all app 127.0.0.1/32 scram-sha-256");
    let builder = builder.setting("password_encryption", "scram-sha-256").file("pg_hba.conf", rule);
    let cluster = start(builder).await;
    let more =
        format!("ssl_mode = 'verify-full'\nssl_root_cert = '{root}'\nchannel_binding = 'prefer'");
    let mut config = config(cluster.primary(), &more);
    let engine = open(config.clone()).await;
    assert!(is_encrypted(&engine.handle()).await);
    engine.close().await;

    config.main.password = Some(format!("{PASSWORD} and more"));
    let said = refused_of(config).await;
    assert!(said.contains("`password`"), "{said}");
}
