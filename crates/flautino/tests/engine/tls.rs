//! TLS that fails: at once, with the certificate's fault and the key to mend. Runs in a build with TLS:
//! `cargo test -p flautino --features tls-rustls-ring --test engine tls`.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig, OpenError};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{cluster, open, wait_until};

fn openssl(dir: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let done = command.current_dir(dir).args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// An authority and a certificate of a server for `localhost`, in the server's own folder.
fn certificates(node: &Node) -> PathBuf {
    let dir = node.data_dir();
    for name in ["ca", "other_ca"] {
        let subject = format!("-subj /CN={name} -days 9 -nodes -newkey rsa:2048");
        openssl(&dir, &format!("req -x509 {subject} -keyout {name}.key -out {name}.crt"));
    }
    for (name, authority) in [("server", "ca"), ("client", "other_ca")] {
        let names = "subjectAltName=DNS:localhost,DNS:nowhere.example";
        openssl(
            &dir,
            &format!(
                "req -new -subj /CN=postgres -addext {names} -nodes -newkey rsa:2048 \
                 -keyout {name}.key -out {name}.csr"
            ),
        );
        openssl(
            &dir,
            &format!(
                "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial \
                 -copy_extensions copy -days 9 -out {name}.crt"
            ),
        );
    }
    let owner = std::fs::metadata(dir.join("PG_VERSION")).unwrap();
    for name in ["server.key", "server.crt", "ca.crt"] {
        let path = dir.join(name);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let _ = chown(&path, Some(owner.uid()), Some(owner.gid()));
    }
    dir
}

async fn with_tls() -> (Cluster, PathBuf) {
    let cluster = cluster(0).await;
    let dir = certificates(cluster.primary());
    for sql in [
        "ALTER SYSTEM SET ssl = on",
        "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'",
        "SELECT pg_reload_conf()",
    ] {
        cluster.primary().execute(sql).await.unwrap();
    }
    wait_until("the server speaks TLS", async || {
        let config = config(cluster.primary(), "ssl_mode = 'require'");
        Engine::new(config).unwrap().open().await.is_ok()
    })
    .await;
    (cluster, dir)
}

fn config(node: &Node, more: &str) -> EngineConfig {
    let host = if more.contains("host = ") { "" } else { "host = 'localhost'\n" };
    EngineConfig::from_toml(&format!(
        "{host}port = {}\nuser = 'postgres'\ndatabase = 'postgres'\nextensions = []\n\
         startup_timeout = '60s'\n{more}",
        node.port()
    ))
    .unwrap()
}

/// The error of `open`, which comes at once.
async fn refused(node: &Node, more: &str) -> String {
    let started = Instant::now();
    let engine = Engine::new(config(node, more)).unwrap();
    let error = engine.open().await.expect_err(more);
    assert!(matches!(error, OpenError::Refused(_)), "{more}: {error:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "{more}: waited for");
    error.to_string()
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told_at_once_with_the_key_to_mend() {
    let (cluster, dir) = with_tls().await;
    let node = cluster.primary();
    let path = |name: &str| dir.join(name).display().to_string();
    let (ca, other_ca) = (path("ca.crt"), path("other_ca.crt"));
    let root = |mode: &str, file: &str| format!("ssl_mode = '{mode}'\nssl_root_cert = '{file}'");
    for mode in ["verify-ca", "verify-full"] {
        let engine = open(config(node, &root(mode, &ca))).await;
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(&engine.handle()).await.unwrap());
        engine.close().await;
        let said = refused(node, &format!("ssl_mode = '{mode}'")).await;
        assert!(said.contains("UnknownIssuer") && said.contains("`ssl_root_cert`"), "{said}");
        let said = refused(node, &root(mode, &other_ca)).await;
        assert!(said.contains("`ssl_root_cert`"), "{said}");
        let said = refused(node, &root(mode, "/no/such/file")).await;
        assert!(said.contains("`ssl_root_cert` (/no/such/file)"), "{said}");
        let said = refused(node, &root(mode, &path("PG_VERSION"))).await;
        assert!(said.contains("`ssl_root_cert`"), "{said}");
    }
    let said = refused(node, &format!("host = '127.0.0.1'\n{}", root("verify-full", &ca))).await;
    assert!(said.contains("`host`") && said.contains("verify-ca"), "{said}");
    open(config(node, &format!("host = '127.0.0.1'\n{}", root("verify-ca", &ca)))).await;

    let client = |cert: &str, key: &str| {
        format!("ssl_mode = 'require'\nssl_client_cert = '{cert}'\nssl_client_key = '{key}'")
    };
    let said = refused(node, &client(&path("client.crt"), &path("client.key"))).await;
    assert!(said.contains("`ssl_client_cert`"), "{said}");
    let said = refused(node, &client(&path("client.crt"), &path("ca.key"))).await;
    assert!(said.contains("`ssl_client_key`"), "{said}");
    let said = refused(node, &client(&path("client.crt"), "/no/such/key")).await;
    assert!(said.contains("`ssl_client_key` (/no/such/key)"), "{said}");
    let alone = format!("ssl_mode = 'require'\nssl_client_cert = '{}'", path("client.crt"));
    let said = refused(node, &alone).await;
    assert!(said.contains("`ssl_client_key`"), "{said}");
}

#[tokio::test]
async fn what_the_server_demands_is_told_at_once_with_the_key_to_mend() {
    let (cluster, dir) = with_tls().await;
    let node = cluster.primary();
    let hba = dir.join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    for (rule, mode, keys) in [
        ("hostssl all postgres all trust clientcert=verify-full", "require", "`ssl_client_cert`"),
        ("hostssl all postgres all trust", "disable", "`ssl_mode = \"require\"`"),
        ("hostnossl all postgres all trust", "require", "`ssl_mode = \"disable\"`"),
    ] {
        // The test's own questions go by another user.
        let rule = format!("host all admin all trust\nhost replication all all trust\n{rule}\n");
        let admin = "SELECT pg_reload_conf()";
        std::fs::write(&hba, &rules).unwrap();
        let mut connection = node.connect().await.unwrap();
        std::fs::write(&hba, rule).unwrap();
        sqlx::raw_sql(admin).execute(&mut connection).await.unwrap();
        let more = format!("ssl_mode = '{mode}'");
        wait_until("the rules are in force", async || {
            Engine::new(config(node, &more)).unwrap().open().await.is_err()
        })
        .await;
        let said = refused(node, &more).await;
        assert!(said.contains(keys), "{rules}: {said}");
        std::fs::write(&hba, &rules).unwrap();
        sqlx::raw_sql(admin).execute(&mut connection).await.unwrap();
        wait_until("the rules are as before", async || node.connect().await.is_ok()).await;
    }
}

#[tokio::test]
async fn a_server_without_tls_is_told_at_once() {
    let cluster = cluster(0).await;
    let said = refused(cluster.primary(), "ssl_mode = 'require'").await;
    assert!(said.contains("does not support TLS") && said.contains("`ssl_mode"), "{said}");
    open(config(cluster.primary(), "ssl_mode = 'prefer'")).await.close().await;
}
