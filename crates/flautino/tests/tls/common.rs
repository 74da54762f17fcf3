//! What these tests share: authorities and what they sign, files, servers that speak TLS, and engines.

use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig, Handle, OpenError};
use flautino_cluster::{Builder, Cluster, Node};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;

/// The password of the engines' role. No message may show it.
pub(crate) const PASSWORD: &str = "hunter2";

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate of a server that has these names or addresses.
    pub(crate) fn server(&self, names: &[&str]) -> Identity {
        self.sign(&server_of(names))
    }

    /// The same, of the last century.
    pub(crate) fn expired_server(&self, names: &[&str]) -> Identity {
        let mut params = server_of(names);
        params.not_before = date_time_ymd(1998, 1, 1);
        params.not_after = date_time_ymd(1999, 1, 1);
        self.sign(&params)
    }

    /// A certificate of a client that may be this role.
    pub(crate) fn client(&self, role: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, role);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

fn server_of(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

/// A folder of files for the client.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// Writes a file, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

/// Servers that speak TLS, and show this certificate.
pub(crate) fn speaking_tls(identity: &Identity) -> Builder {
    let builder = Cluster::builder().setting("ssl", "on");
    builder.file("server.crt", &identity.certificate).file("server.key", &identity.key)
}

/// From now on new connections are shown this certificate.
pub(crate) async fn show(node: &Node, identity: &Identity) {
    node.write_file("server.crt", &identity.certificate).unwrap();
    node.write_file("server.key", &identity.key).unwrap();
    node.execute("SELECT pg_reload_conf()").await.unwrap();
}

/// The server's `pg_hba.conf` with this rule for the engines' role. The cluster itself comes by other rules.
pub(crate) fn rules(rule: &str) -> String {
    format!(
        "host all postgres 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n{rule}\n"
    )
}

/// Starts the servers, with the role `app` for engines.
pub(crate) async fn start(builder: Builder) -> Cluster {
    let cluster = builder.start().await.unwrap();
    let role = format!("CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'");
    cluster.primary().execute(&role).await.unwrap();
    cluster
}

/// An engine's node: this server, by the host's name unless `more` has another.
pub(crate) fn node_keys(node: &Node, more: &str) -> String {
    let host = if more.contains("host = ") { "" } else { "host = 'localhost'\n" };
    format!(
        "{host}port = {}\nuser = 'app'\npassword = '{PASSWORD}'\ndatabase = 'postgres'\n{more}\n",
        node.port()
    )
}

/// An engine of this server, with keys of the configuration in TOML.
pub(crate) fn config(node: &Node, more: &str) -> EngineConfig {
    let keys = node_keys(node, more);
    EngineConfig::from_toml(&format!("extensions = []\nstartup_timeout = '60s'\n{keys}")).unwrap()
}

/// The error of `open`, which comes at once and names the node.
pub(crate) async fn refused(node: &Node, more: &str) -> String {
    refused_of(config(node, more)).await
}

pub(crate) async fn refused_of(config: EngineConfig) -> String {
    let started = Instant::now();
    let engine = Engine::new(config).unwrap();
    let error = engine.open().await.expect_err("TLS should fail");
    assert!(matches!(error, OpenError::Refused(_)), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "waited for: {error}");
    let said = error.to_string();
    assert!(said.starts_with("node `main` cannot be connected to ("), "{said}");
    assert!(!format!("{said} {error:?}").contains(PASSWORD), "{said}");
    said
}

/// Whether the server says that the handle's connection is encrypted.
pub(crate) async fn is_encrypted(db: &Handle) -> bool {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}
