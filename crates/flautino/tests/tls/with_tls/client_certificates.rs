//! A server that wants to see the client's certificate.

use flautino_cluster::Cluster;
use flautino_lab::open;

use crate::common::{Authority, Files, Identity, config, refused, rules, speaking_tls, start};

/// A server that lets `app` in with a certificate of that name from the second authority.
async fn server(ours: &Authority, clients: &Authority) -> Cluster {
    let builder = speaking_tls(&ours.server(&["localhost"])).setting("ssl_ca_file", "clients.crt");
    let rule = rules("hostssl all app 127.0.0.1/32 trust clientcert=verify-full");
    start(builder.file("clients.crt", clients.pem()).file("pg_hba.conf", rule)).await
}

struct Client {
    files: Files,
    root: String,
}

impl Client {
    /// The keys of the configuration with these files.
    fn keys(&self, certificate: &str, key: &str) -> String {
        let root = &self.root;
        format!(
            "ssl_mode = 'verify-full'\nssl_root_cert = '{root}'\n\
             ssl_client_cert = '{certificate}'\nssl_client_key = '{key}'"
        )
    }

    fn write(&self, name: &str, identity: &Identity) -> (String, String) {
        let certificate = self.files.write(&format!("{name}.crt"), &identity.certificate);
        (certificate, self.files.write(&format!("{name}.key"), &identity.key))
    }
}

#[tokio::test]
async fn the_certificate_of_the_role_lets_it_in_and_what_is_wrong_with_another_is_told() {
    let [ours, clients, foreign] = ["ours", "clients", "foreign"].map(Authority::new);
    let cluster = server(&ours, &clients).await;
    let node = cluster.primary();
    let files = Files::new();
    let root = files.write("ca.crt", &ours.pem());
    let client = Client { files, root };
    let (good, good_key) = client.write("app", &clients.client("app"));

    let engine = open(config(node, &client.keys(&good, &good_key))).await;
    let shown = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let shown: String = sqlx::query_scalar(shown).fetch_one(&engine.handle()).await.unwrap();
    assert_eq!(shown, "/CN=app");
    engine.close().await;

    let (other, other_key) = client.write("other", &clients.client("somebody"));
    let (of_foreign, foreign_key) = client.write("foreign", &foreign.client("app"));
    let text = client.files.write("notes.txt", "neither a certificate nor a key");
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = client.files.write("locked.key", locked);
    let (absent, folder) = (client.files.path("absent.pem"), client.files.path(""));
    let cert_is = |path: &str| format!("`ssl_client_cert` ({path})");
    let key_is = |path: &str| format!("`ssl_client_key` ({path})");
    let both = "`ssl_client_cert` and `ssl_client_key`".to_owned();
    for (certificate, key, says) in [
        (&other, &other_key, [both.clone(), "app".to_owned()]),
        (&of_foreign, &foreign_key, [both.clone(), of_foreign.clone()]),
        (&good, &other_key, ["is not the key of".to_owned(), other_key.clone()]),
        (&absent, &good_key, [cert_is(&absent), "No such file".to_owned()]),
        (&good, &absent, [key_is(&absent), "No such file".to_owned()]),
        (&folder, &good_key, [cert_is(&folder), "irectory".to_owned()]),
        (&good, &folder, [key_is(&folder), "irectory".to_owned()]),
        (&text, &good_key, [cert_is(&text), "no PEM file with a certificate".to_owned()]),
        (&good, &text, [key_is(&text), "no PEM file with a private key".to_owned()]),
        (&good, &locked, [format!("({locked})"), "has a password".to_owned()]),
    ] {
        let said = refused(node, &client.keys(certificate, key)).await;
        println!("{said}");
        for one in says {
            assert!(said.contains(&one), "no {one} in: {said}");
        }
        assert!(!said.contains("BEGIN"), "{said}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_missing_is_told() {
    let [ours, clients] = ["ours", "clients"].map(Authority::new);
    let cluster = server(&ours, &clients).await;
    let files = Files::new();
    let root = files.write("ca.crt", &ours.pem());
    let keys = format!("ssl_mode = 'verify-full'\nssl_root_cert = '{root}'");
    let said = refused(cluster.primary(), &keys).await;
    assert!(said.contains("valid client certificate"), "{said}");
    assert!(said.contains("`ssl_client_cert` and `ssl_client_key`"), "{said}");
}
