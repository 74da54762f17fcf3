//! Nodes that are found by a name are connected to by address, and that is what `verify-full` compares.

use flautino::{DiscoveryConfig, Engine, EngineConfig};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{Capture, wait_until};

use crate::common::{Authority, Files, config, is_encrypted, show, speaking_tls, start};

/// An engine of the primary, whose replicas are under the name `replicas.test`.
fn discovering(cluster: &Cluster, root: &str) -> Engine {
    let more = format!("ssl_mode = 'verify-full'\nssl_root_cert = '{root}'");
    let mut discovery = DiscoveryConfig::new("replicas.test");
    discovery.interval = std::time::Duration::from_secs(1);
    let main = config(cluster.primary(), &more);
    let engine = Engine::new(EngineConfig { discovery: Some(discovery), ..main }).unwrap();
    let replica = cluster.replica(0).addr();
    engine.resolve_with(move |_, _| async move { Ok(vec![replica]) });
    engine
}

/// What the status says of the node that was found.
fn found(engine: &Engine) -> (String, String) {
    let node = engine.status().nodes.remove(1);
    (node.name, node.reason.unwrap_or_default())
}

async fn cluster(ours: &Authority, replica: &[&str]) -> Cluster {
    let cluster = start(speaking_tls(&ours.server(&["localhost"])).replicas(1)).await;
    let node: &Node = cluster.replica(0);
    node.catch_up_with(cluster.primary()).await.unwrap();
    node.stop().await.unwrap();
    let identity = ours.server(replica);
    node.write_file("server.crt", &identity.certificate).unwrap();
    node.write_file("server.key", &identity.key).unwrap();
    node.start().await.unwrap();
    cluster
}

#[tokio::test]
async fn a_certificate_with_the_address_is_taken() {
    let (ours, files) = (Authority::new("ours"), Files::new());
    let cluster = cluster(&ours, &["127.0.0.1"]).await;
    let engine = discovering(&cluster, &files.write("ca.crt", &ours.pem()));
    let report = engine.open().await.unwrap();
    assert_eq!(report.warnings, [""; 0]);
    let (name, _) = found(&engine);
    assert!(is_encrypted(&engine.handle().node(&name).unwrap()).await);
    engine.close().await;
}

#[tokio::test]
async fn a_certificate_with_the_name_alone_is_told_with_what_is_compared() {
    let _capture = Capture::start();
    let (ours, files) = (Authority::new("ours"), Files::new());
    let cluster = cluster(&ours, &["replicas.test"]).await;
    let engine = discovering(&cluster, &files.write("ca.crt", &ours.pem()));
    let report = engine.open().await.unwrap();
    let said = report.warnings.join("\n");
    println!("{said}");
    assert!(said.contains("127.0.0.1") && said.contains("`discovery`"), "{said}");
    assert!(said.contains("connected to by their addresses"), "{said}");
    // It is not used, and all goes on without it.
    let (name, reason) = found(&engine);
    assert!(reason.contains("`discovery`"), "{name}: {reason}");
    assert!(is_encrypted(&engine.handle()).await);
    // It joins when its certificate has the address as well.
    show(cluster.replica(0), &ours.server(&["replicas.test", "127.0.0.1"])).await;
    wait_until("the node is used", async || found(&engine).1.is_empty()).await;
    assert!(is_encrypted(&engine.handle().node(&name).unwrap()).await);
    engine.close().await;
}
