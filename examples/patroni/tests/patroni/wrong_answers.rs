//! An address that does not answer, answers nonsense, or lists members that do not run, loses no node.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flautino::Engine;
use flautino_cluster::{Cluster, Node};
use flautino_lab::{catch_up, cluster, run, until_served_by, wait_until};
use patroni::Members;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::common::{discovering, others};

/// What stands where Patroni should.
#[derive(Debug, Clone)]
enum Says {
    Members(Vec<Value>),
    This(StatusCode, &'static str),
    Nothing,
}

/// Stands where Patroni should, and says what the test wants.
#[derive(Clone)]
struct Impostor {
    url: String,
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<usize>>,
}

impl Impostor {
    async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let this = Self { url, says: Arc::new(Mutex::new(says)), asked: Arc::default() };
        let answers = this.clone();
        let app = Router::new().route("/cluster", get(async move || answers.answer().await));
        tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        this
    }

    async fn answer(&self) -> Response {
        *self.asked.lock().unwrap() += 1;
        let says = self.says.lock().unwrap().clone();
        match says {
            Says::Members(members) => json!({"members": members}).to_string().into_response(),
            Says::This(status, text) => (status, text).into_response(),
            Says::Nothing => std::future::pending().await,
        }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Waits until it was asked so often once more, so that what came before is over.
    async fn until_asked(&self, more: usize) {
        let asked = || *self.asked.lock().unwrap();
        let wanted = asked() + more;
        wait_until("it is asked again", async || asked() >= wanted).await;
    }
}

fn member(addr: SocketAddr, role: &str, state: &str) -> Value {
    json!({"name": "p", "role": role, "state": state, "host": addr.ip(), "port": addr.port()})
}

fn replica(node: &Node) -> Value {
    member(node.addr(), "replica", "streaming")
}

/// All members, as Patroni lists them.
fn all(cluster: &Cluster) -> Vec<Value> {
    let leader = member(cluster.primary().addr(), "leader", "running");
    cluster.nodes().skip(1).map(replica).chain([leader]).collect()
}

fn replicas(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<_> = cluster.nodes().skip(1).map(|node| node.addr().to_string()).collect();
    names.sort();
    names
}

async fn engine(cluster: &Cluster, apis: &[&str]) -> Engine {
    let members = Members::new(&apis.join(",")).unwrap();
    let main = cluster.primary();
    discovering(&main.url(), main.addr(), members).await
}

async fn until_all_serve(cluster: &Cluster, engine: &Engine) {
    let names = replicas(cluster);
    until_served_by(engine, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn any_one_address_that_answers_is_enough() {
    let cluster = cluster(2).await;
    let good = Impostor::start(Says::Members(all(&cluster))).await;
    let silent = Impostor::start(Says::Nothing).await;
    let broken = Impostor::start(Says::This(StatusCode::OK, "<html>nonsense</html>")).await;
    // Nobody listens on a port of the system's choice any more.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}");
    let engine = engine(&cluster, &[&silent.url, &broken.url, &closed, &good.url]).await;
    assert_eq!(others(&engine), replicas(&cluster), "the main node is not there twice");
    until_all_serve(&cluster, &engine).await;
    engine.close().await;
}

#[tokio::test]
async fn nodes_stay_while_no_answer_is_one() {
    let cluster = cluster(2).await;
    let api = Impostor::start(Says::Members(all(&cluster))).await;
    let engine = engine(&cluster, &[&api.url]).await;
    until_all_serve(&cluster, &engine).await;
    let wrong = [
        Says::This(StatusCode::OK, "nonsense"),
        Says::This(StatusCode::OK, ""),
        Says::This(StatusCode::OK, r#"{"members": "none"}"#),
        Says::This(StatusCode::OK, r#"{"members": [{"name": "p1"}]}"#),
        Says::This(StatusCode::OK, r#"{"members": [{"role": "leader", "host": 7}]}"#),
        Says::This(StatusCode::OK, "[]"),
        Says::This(StatusCode::SERVICE_UNAVAILABLE, r#"{"members": []}"#),
        Says::Members(vec![]),
        Says::Members(vec![json!({"name": "p1", "role": "replica", "state": "creating replica"})]),
        Says::Nothing,
    ];
    for says in wrong {
        api.say(says.clone());
        api.until_asked(2).await;
        assert_eq!(others(&engine), replicas(&cluster), "after {says:?}");
        run(&engine.handle(), "SELECT 1").await.unwrap();
    }
    until_all_serve(&cluster, &engine).await;
    // It goes on asking.
    api.say(Says::Members(vec![replica(cluster.replica(1))]));
    wait_until("the one that is not listed has left", async || others(&engine).len() == 1).await;
    engine.close().await;
}

#[tokio::test]
async fn a_member_that_is_listed_and_does_not_run_costs_no_read_and_serves_when_it_is_back() {
    let cluster = cluster(2).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut members = all(&cluster);
    members.push(member(gone, "replica", "start failed"));
    let api = Impostor::start(Says::Members(members.clone())).await;
    let engine = engine(&cluster, &[&api.url]).await;
    assert_eq!(others(&engine).len(), 3);
    until_all_serve(&cluster, &engine).await;
    let down = cluster.replica(0);
    down.kill().await.unwrap();
    members[0]["state"] = json!("stopped");
    api.say(Says::Members(members));
    let until = api.until_asked(3);
    let reads = async {
        loop {
            run(&engine.handle(), "SELECT 1").await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = until => {}
        () = reads => {}
    }
    assert_eq!(others(&engine).len(), 3);
    down.start().await.unwrap();
    catch_up(&cluster).await;
    until_all_serve(&cluster, &engine).await;
    engine.close().await;
}

#[tokio::test]
async fn a_member_that_is_tagged_noloadbalance_is_a_node_only_while_it_leads() {
    let cluster = cluster(2).await;
    let mut members = all(&cluster);
    members[0]["tags"] = json!({"noloadbalance": true, "clonefrom": "yes"});
    let tagged = cluster.replica(0).addr().to_string();
    let api = Impostor::start(Says::Members(members.clone())).await;
    let members_of = Members::new(&api.url).unwrap();
    let listed = async || members_of.nodes(cluster.primary().addr()).await.unwrap();
    let has_tagged = |nodes: Vec<SocketAddr>| nodes.iter().any(|node| node.to_string() == tagged);
    assert!(!has_tagged(listed().await));
    members[0]["role"] = json!("leader");
    api.say(Says::Members(members));
    assert!(has_tagged(listed().await));
}
