//! A server with a certificate of its own authority, and an engine that checks it.
//!
//! Run with `cargo run -p flautino --example tls --features tls-rustls-ring`. It starts a throwaway cluster of
//! its own.

use std::error::Error;

use flautino::{Engine, EngineConfig};
use flautino_cluster::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Whoever runs the servers has an authority, which signs the certificate of each.
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    let cluster = Cluster::builder()
        .setting("ssl", "on")
        .file("server.crt", certificate.pem())
        .file("server.key", key.serialize_pem())
        .start()
        .await?;

    // The app has the authority's certificate, which is no secret.
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("ca.crt");
    std::fs::write(&root, authority.pem())?;
    let config = |host: &str, mode: &str| {
        EngineConfig::from_toml(&format!(
            "host = '{host}'\nport = {}\nuser = 'postgres'\ndatabase = 'postgres'\nextensions = []\n\
             ssl_mode = '{mode}'\nssl_root_cert = '{}'",
            cluster.primary().port(),
            root.display()
        ))
    };
    for mode in ["disable", "verify-full"] {
        let engine = Engine::new(config("localhost", mode)?)?;
        engine.open().await?;
        let sql = "SELECT coalesce(version, 'not encrypted') FROM pg_stat_ssl \
                   WHERE pid = pg_backend_pid()";
        let said: String = sqlx::query_scalar(sql).fetch_one(&engine.handle()).await?;
        println!("{mode}: {said}");
        engine.close().await;
    }

    // The certificate is for `localhost`, so a server of another name is not trusted.
    let refused = Engine::new(config("127.0.0.1", "verify-full")?)?.open().await;
    println!("by another name: {}", refused.expect_err("the name does not match"));

    cluster.stop().await;
    Ok(())
}
