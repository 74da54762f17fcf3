//! Requests on connections that are kept alive, which are in the socket when `serve` begins to drain.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use axum::serve::Listener;
use flautino_lab::Lab;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::common::send_get;

const CLIENTS: usize = 16;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";

/// A listener at whose end these clients send a request: `serve` drops it in the very step in which
/// it begins to drain.
struct Last {
    listener: TcpListener,
    clients: Arc<Mutex<Vec<TcpStream>>>,
}

impl Drop for Last {
    fn drop(&mut self) {
        for client in &*self.clients.lock().unwrap() {
            assert_eq!(client.try_write(REQUEST).unwrap(), REQUEST.len());
        }
    }
}

impl Listener for Last {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_in_the_socket_when_draining_begins_are_answered() {
    let lab = Lab::named("last").start_closed().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let clients = Arc::new(Mutex::new(Vec::new()));
    let listener = Last { listener, clients: Arc::clone(&clients) };
    let app = Router::new().route("/", get(async || "hello"));
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = flautino_axum::serve(listener, app, lab.engine).with_shutdown(async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serve.into_future());
    for _ in 0..CLIENTS {
        let mut client = send_get(&url, "/").await;
        let mut first = Vec::new();
        while !first.ends_with(b"hello") {
            assert_ne!(client.read_buf(&mut first).await.unwrap(), 0);
        }
        clients.lock().unwrap().push(client);
    }
    stop.send(()).unwrap();
    let report = serving.await.unwrap().unwrap();
    assert_eq!((report.connections_drained, report.requests_cut), (CLIENTS, 0), "{report:?}");
    let clients = std::mem::take(&mut *clients.lock().unwrap());
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer:?}");
    }
}
