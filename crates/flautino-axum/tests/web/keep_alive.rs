//! How long a connection may wait: for its next request, and for the rest of a request's head.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use flautino::Engine;
use flautino_axum::ServeReport;
use flautino_lab::cluster;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::common::{SOON, dial};

/// Longer than the short times below by far, and short for a test.
const A_WHILE: Duration = Duration::from_millis(900);
const SHORT: Duration = Duration::from_millis(200);
/// Nothing here waits for that long.
const LONG: Duration = Duration::from_secs(600);

struct Served {
    url: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<ServeReport>,
    _cluster: flautino_cluster::Cluster,
}

impl Served {
    /// An app whose connections may wait so long for a request, and for the end of its head.
    async fn with(keep_alive: Duration, header: Duration) -> Self {
        let slow_body = async || {
            let chunks = stream::unfold(0, async |n| {
                tokio::time::sleep(SHORT).await;
                (n < 6).then_some((Ok::<_, Infallible>(Bytes::from_static(b"chunk")), n + 1))
            });
            Body::from_stream(chunks)
        };
        let app = Router::new()
            .route("/", get(async || "hello"))
            .route("/slow", get(async || tokio::time::sleep(A_WHILE).await))
            .route("/slow_body", get(slow_body))
            .route("/upload", post(async |body: Bytes| body.len().to_string()));
        let cluster = cluster(0).await;
        let engine = Engine::new(flautino_lab::config(&cluster, "keep alive")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = flautino_axum::serve(listener, app, engine)
            .keep_alive_timeout(keep_alive)
            .header_timeout(header)
            .with_shutdown(async { drop(stopped.await) });
        let task = tokio::spawn(async { serve.await.unwrap() });
        Self { url, stop, task, _cluster: cluster }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }
}

/// Sends a text and reads one response, whose body is `hello`.
async fn hello(socket: &mut TcpStream) {
    socket.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("hello") {
        let mut bytes = [0; 1024];
        let length = socket.read(&mut bytes).await.unwrap();
        assert!(length > 0, "closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Reads until the server closes the connection, and answers what came.
async fn until_closed(socket: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(SOON, socket.read_to_end(&mut rest)).await;
    // A reset is an end too.
    let _ = read.expect("the connection stays open");
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn a_connection_waits_for_a_request_longer_than_a_request_for_its_head() {
    let served = Served::with(LONG, SHORT).await;
    let mut socket = dial(&served.url).await;
    for _ in 0..2 {
        tokio::time::sleep(A_WHILE).await;
        hello(&mut socket).await;
    }
    drop(socket);
    served.stop().await;
}

#[tokio::test]
async fn a_head_that_does_not_end_ends_the_connection_also_if_it_trickles() {
    let served = Served::with(LONG, SHORT).await;
    let mut first = dial(&served.url).await;
    first.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    assert_eq!(until_closed(&mut first).await, "");
    // The second request of a connection, in single bytes.
    let mut second = dial(&served.url).await;
    hello(&mut second).await;
    let (mut read, mut write) = second.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b"G").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    });
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(SOON, read.read_to_end(&mut rest)).await;
    let _ = closed.expect("the connection stays open");
    trickle.abort();
    served.stop().await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_in_time() {
    let served = Served::with(SHORT, SHORT).await;
    let mut used = dial(&served.url).await;
    hello(&mut used).await;
    assert_eq!(until_closed(&mut used).await, "");
    let mut silent = dial(&served.url).await;
    assert_eq!(until_closed(&mut silent).await, "");
    served.stop().await;
}

#[tokio::test]
async fn what_a_request_takes_does_not_count() {
    let served = Served::with(SHORT, SHORT).await;
    let client = reqwest::Client::new();
    let answer = client.get(format!("{}/slow", served.url)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer = client.get(format!("{}/slow_body", served.url)).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "chunk".repeat(6));
    let mut upload = dial(&served.url).await;
    upload
        .write_all(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..6 {
        tokio::time::sleep(SHORT).await;
        upload.write_all(b"x").await.unwrap();
    }
    let answer = until_closed(&mut upload).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('6'), "{answer}");
    served.stop().await;
}

#[tokio::test]
async fn http2_waits_as_long() {
    let client = || reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    // Longer than a head may take, on one connection.
    let served = Served::with(LONG, SHORT).await;
    let mut silent = dial(&served.url).await;
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let kept = client();
    for _ in 0..2 {
        tokio::time::sleep(A_WHILE).await;
        let answer = kept.get(&served.url).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "hello");
    }
    // It got the server's settings, and no end.
    let mut bytes = [0; 1024];
    while let Ok(read) = tokio::time::timeout(SHORT, silent.read(&mut bytes)).await {
        assert!(read.unwrap() > 0, "closed");
    }
    served.stop().await;

    let served = Served::with(SHORT, SHORT).await;
    let answer = client().get(format!("{}/slow_body", served.url)).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "chunk".repeat(6));
    served.stop().await;
}

#[tokio::test]
async fn by_default_it_is_longer_than_balancers_keep_theirs() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = flautino::EngineConfig::from_url("postgres://127.0.0.1:1/db").unwrap();
    let engine = Engine::new(config).unwrap();
    let told = format!("{:?}", flautino_axum::serve(listener, Router::<()>::new(), engine));
    assert!(told.contains("keep_alive_timeout: 75s"), "{told}");
    assert!(told.contains("header_timeout: 30s"), "{told}");
}
