//! A listener that takes its time with a connection, as one that speaks TLS does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use axum::serve::Listener;
use flautino_lab::Lab;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";

/// Each connection waits for a permit of `done`, and adds one to `begun` before.
struct Slow {
    listener: TcpListener,
    begun: Arc<Semaphore>,
    done: Arc<Semaphore>,
}

impl Listener for Slow {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let accepted = Listener::accept(&mut self.listener).await;
        self.begun.add_permits(1);
        self.done.acquire().await.unwrap().forget();
        accepted
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn answer(client: &mut TcpStream) -> String {
    client.write_all(REQUEST).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn it_is_not_interrupted_by_the_end_of_another_connection() {
    let lab = Lab::named("slow").start_closed().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, done) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(1)));
    let listener = Slow { listener, begun: Arc::clone(&begun), done: Arc::clone(&done) };
    let app = Router::new().route("/", get(async || "hello"));
    let serving = tokio::spawn(flautino_axum::serve(listener, app, lab.engine).into_future());
    let mut first = TcpStream::connect(address).await.unwrap();
    begun.acquire().await.unwrap().forget();
    let mut second = TcpStream::connect(address).await.unwrap();
    begun.acquire().await.unwrap().forget();
    assert!(answer(&mut first).await.ends_with("hello"));
    // There is one thread: by then `serve` has heard of its end.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    done.add_permits(1);
    assert!(answer(&mut second).await.ends_with("hello"));
    serving.abort();
}
