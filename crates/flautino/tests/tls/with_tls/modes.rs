//! Each `ssl_mode` against each kind of server: what connects, whether it is encrypted, and what is said
//! where it fails.

use flautino_cluster::{Cluster, Node};
use flautino_lab::open;

use crate::common::{Authority, Files, config, is_encrypted, refused, speaking_tls, start};

enum Outcome {
    Plain,
    Encrypted,
    /// It fails, and says these.
    Fails(&'static [&'static str]),
}
use Outcome::{Encrypted, Fails, Plain};

/// How each server is named in a message of the test, in the order of the columns.
const SERVERS: [&str; 5] =
    ["a good certificate", "another authority", "another name", "an expired one", "no TLS"];

const UNTRUSTED: Outcome = Fails(&["authority", "`ssl_root_cert` is /", "ca.crt"]);
const NOT_PUBLIC: Outcome = Fails(&["authority", "`ssl_root_cert`"]);
const WRONG_NAME: Outcome = Fails(&["`host`", "verify-ca"]);
const EXPIRED: Outcome = Fails(&["xpired", "renew the server's certificate"]);
const NO_TLS: Outcome = Fails(&["does not support TLS", "`ssl` on", "`ssl_mode = \"prefer\"`"]);

/// Each mode, whether it is given the authority, and what comes of it.
const MODES: [(&str, bool, [Outcome; 5]); 9] = [
    ("disable", true, [Plain, Plain, Plain, Plain, Plain]),
    // Where libpq tries again with TLS, sqlx does not.
    ("allow", true, [Plain, Plain, Plain, Plain, Plain]),
    // A server without TLS is used without; a certificate is not looked at.
    ("prefer", false, [Encrypted, Encrypted, Encrypted, Encrypted, Plain]),
    ("prefer", true, [Encrypted, Encrypted, Encrypted, Encrypted, Plain]),
    ("require", false, [Encrypted, Encrypted, Encrypted, Encrypted, NO_TLS]),
    // As libpq does it.
    ("require", true, [Encrypted, UNTRUSTED, Encrypted, EXPIRED, NO_TLS]),
    ("verify-ca", true, [Encrypted, UNTRUSTED, Encrypted, EXPIRED, NO_TLS]),
    ("verify-full", true, [Encrypted, UNTRUSTED, WRONG_NAME, EXPIRED, NO_TLS]),
    // No public authority has signed it.
    ("verify-full", false, [NOT_PUBLIC, NOT_PUBLIC, NOT_PUBLIC, Fails(&["TLS failed"]), NO_TLS]),
];

#[tokio::test]
async fn each_mode_does_with_each_server_what_the_documentation_says() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let files = Files::new();
    let root = files.write("ca.crt", &ours.pem());
    let name = ["localhost"];
    let clusters = futures_util::future::join_all([
        start(speaking_tls(&ours.server(&name))),
        start(speaking_tls(&foreign.server(&name))),
        start(speaking_tls(&ours.server(&["elsewhere.example", "10.1.2.3"]))),
        start(speaking_tls(&ours.expired_server(&name))),
        start(Cluster::builder()),
    ])
    .await;
    for (mode, with_root, outcomes) in &MODES {
        let root = if *with_root { format!("ssl_root_cert = '{root}'") } else { String::new() };
        for ((cluster, server), outcome) in clusters.iter().zip(SERVERS).zip(outcomes) {
            let more = format!("ssl_mode = '{mode}'\n{root}");
            check(&format!("{more} with {server}"), cluster.primary(), &more, outcome).await;
        }
    }
}

async fn check(case: &str, node: &Node, more: &str, outcome: &Outcome) {
    println!("{case}");
    if let Fails(says) = outcome {
        let said = refused(node, more).await;
        println!("    {said}");
        assert!(said.contains(&format!("localhost:{}", node.port())), "{said}");
        for one in *says {
            assert!(said.contains(one), "{case}: no {one} in: {said}");
        }
        return;
    }
    let engine = open(config(node, more)).await;
    assert_eq!(is_encrypted(&engine.handle()).await, matches!(outcome, Encrypted), "{case}");
    engine.close().await;
}

#[tokio::test]
async fn a_file_that_holds_no_certificate_of_an_authority_is_named() {
    let (ours, files) = (Authority::new("ours"), Files::new());
    let cluster = start(speaking_tls(&ours.server(&["localhost"]))).await;
    let root = |file: &str| format!("ssl_mode = 'verify-full'\nssl_root_cert = '{file}'");
    let text = files.write("notes.txt", "no certificate");
    let cut = files.write("cut.crt", "-----BEGIN CERTIFICATE-----\nAAAA");
    let absent = files.path("absent.crt");
    let folder = files.path("");
    for (file, says) in
        [(&text, "no PEM file"), (&cut, ""), (&absent, "No such file"), (&folder, "directory")]
    {
        let said = refused(cluster.primary(), &root(file)).await;
        println!("{said}");
        assert!(said.contains("`ssl_root_cert`") && said.contains(file.as_str()), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
