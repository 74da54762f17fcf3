//! An app as a process of its own, which can be sent signals.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post};
use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_cluster::Cluster;
use flautino_lab::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The URLs of the nodes, the main one first, and the drain time in milliseconds.
const NODES: &str = "FLAUTINO_FAULTS_NODES";
const DRAIN: &str = "FLAUTINO_FAULTS_DRAIN";
/// How it begins what it says.
const LISTENS: &str = "LISTENS AT ";
const ENDS: &str = "ENDS WITH ";

/// An app under `serve` in a process of its own; killed when the test ends before it does.
pub(crate) struct Child {
    process: std::process::Child,
    said: UnboundedReceiver<String>,
    pub(crate) url: String,
    http: reqwest::Client,
}

/// What the app said at its end.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) requests_cut: usize,
    pub(crate) connections_cut: usize,
    /// The ids of the requests that reached their handlers.
    pub(crate) begun: Vec<usize>,
}

impl Child {
    pub(crate) async fn start(cluster: &Cluster, drain: Duration) -> Self {
        let urls: Vec<_> = cluster.nodes().map(flautino_cluster::Node::url).collect();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::the_app", "--ignored", "--nocapture"])
            .env(NODES, urls.join(" "))
            .env(DRAIN, drain.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, said) = unbounded_channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut child = Self { process, said, url: String::new(), http: reqwest::Client::new() };
        child.url = child.says(LISTENS).await;
        wait_until("the app answers", async || {
            child.http.get(format!("{}/livez", child.url)).send().await.is_ok()
        })
        .await;
        child
    }

    /// The rest of the line that begins so.
    async fn says(&mut self, what: &str) -> String {
        loop {
            let line = tokio::time::timeout(Duration::from_secs(60), self.said.recv()).await;
            let line = line.expect("the app says something in time").expect("the app goes on");
            if let Some((_, rest)) = line.split_once(what) {
                return rest.to_owned();
            }
        }
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// How many requests have reached their handlers so far.
    pub(crate) async fn begun(&self) -> usize {
        let answer = self.http.get(format!("{}/begun", self.url)).send().await.unwrap();
        answer.text().await.unwrap().parse().unwrap()
    }

    /// Waits for its end, in order.
    pub(crate) async fn ended(&mut self) -> Report {
        let said = self.says(ENDS).await;
        let mut numbers = said.split(' ').map(|number| number.parse().unwrap());
        let (requests_cut, connections_cut) = (numbers.next().unwrap(), numbers.next().unwrap());
        let begun = numbers.collect();
        let mut status = None;
        wait_until("the app has ended", async || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(status.unwrap().success(), "{status:?}");
        Report { requests_cut, connections_cut, begun }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

type Begun = Arc<Mutex<Vec<i64>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the app that tests start as a process of its own"]
async fn the_app() {
    let (Ok(nodes), Ok(drain)) = (std::env::var(NODES), std::env::var(DRAIN)) else { return };
    let mut nodes = nodes.split(' ').map(|url| NodeConfig {
        url: Some(url.to_owned()),
        application_name: Some("told".to_owned()),
        ..NodeConfig::default()
    });
    let main = nodes.next().unwrap();
    let names = (1..).map(|number| format!("read_replica_{number}"));
    let mut config = EngineConfig {
        main,
        extra_nodes: names.zip(nodes).collect(),
        extensions: Vec::new(),
        drain_timeout: Duration::from_millis(drain.parse().unwrap()),
        ..EngineConfig::default()
    };
    // Whoever is in the queue when the signal comes is in it still.
    config.pool.acquire_timeout = Duration::from_secs(60);
    let engine = Engine::new(config).unwrap();
    let begun = Begun::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\n{LISTENS}http://{}", listener.local_addr().unwrap());
    let app = app(&engine, &begun);
    let report = flautino_axum::serve(listener, app, engine).await.unwrap();
    let mut said = format!("{} {}", report.requests_cut, report.connections_cut);
    for id in &*begun.lock().unwrap() {
        said.push_str(&format!(" {id}"));
    }
    println!("\n{ENDS}{said}");
}

fn app(engine: &Engine, begun: &Begun) -> Router {
    Router::new()
        .route("/read/{id}/{ms}", get(read))
        .route("/write/{id}/{ms}", post(write))
        .route("/tx/{id}/{ms}", post(transaction))
        .route("/blocking/{id}/{ms}", get(blocking))
        .route_layer(from_fn_with_state(Arc::clone(begun), note))
        .route("/background/{id}/{ms}", post(background))
        .layer(EngineLayer::new(engine.clone()))
        .route("/livez", get(async || "alive"))
        .route("/begun", get(count))
        .with_state(Arc::clone(begun))
}

/// Remembers who came.
async fn note(
    State(begun): State<Begun>,
    Path((id, _)): Path<(i64, f64)>,
    request: Request,
    next: Next,
) -> axum::response::Response {
    begun.lock().unwrap().push(id);
    next.run(request).await
}

async fn count(State(begun): State<Begun>) -> String {
    begun.lock().unwrap().len().to_string()
}

async fn read(db: Db, Path((_, ms)): Path<(i64, f64)>) -> Result<&'static str, DbError> {
    sqlx::query("SELECT pg_sleep($1 / 1000)").bind(ms).execute(&db).await?;
    Ok("done")
}

/// As [`read`], and keeps the thread meanwhile.
async fn blocking(db: Db, path: Path<(i64, f64)>) -> Result<&'static str, DbError> {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| runtime.block_on(read(db, path)))
}

const STORE: &str = "INSERT INTO entries SELECT $1 FROM (SELECT pg_sleep($2 / 1000)) AS slept";

async fn write(db: Db, Path((id, ms)): Path<(i64, f64)>) -> Result<&'static str, DbError> {
    sqlx::query(STORE).bind(id).bind(ms).execute(&db).await?;
    Ok("done")
}

async fn transaction(
    mut tx: Tx,
    Path((id, ms)): Path<(i64, f64)>,
) -> Result<&'static str, DbError> {
    sqlx::query("INSERT INTO entries VALUES ($1)").bind(id).execute(&mut tx).await?;
    sqlx::query("SELECT pg_sleep($1 / 1000)").bind(ms).execute(&mut tx).await?;
    Ok("done")
}

/// Answers at once, and goes on.
async fn background(db: Db, Path((id, ms)): Path<(i64, f64)>) -> StatusCode {
    tokio::spawn(async move { sqlx::query(STORE).bind(id).bind(ms).execute(&db).await });
    StatusCode::ACCEPTED
}
