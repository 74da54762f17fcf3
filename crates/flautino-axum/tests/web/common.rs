//! What the tests of this binary share: questions to the server, clients that go away.

use flautino_lab::ask;
use std::time::Duration;

use axum::Router;
use flautino::{Engine, EngineConfig, PoolConfig};
use flautino_cluster::Node;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// Far more than it takes until what nobody waits for is over, on a machine that stands still now
/// and then; and far less than the statements and the drain time would take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How many sessions of that name the server has in that state: `active`, `idle in transaction`.
pub(crate) async fn sessions_in(node: &Node, name: &str, state: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE application_name = '{name}' AND state LIKE '{state}%' AND query !~ '{OWN}'"
    );
    ask(node, &sql).await
}

/// What the engine says on its own account, while it opens and now and then.
const OWN: &str = "pg_is_in_recovery|pg_stat_get_activity|^SET ";

/// The table that the tests write to.
pub(crate) const NOTES: &str = "notes (id bigserial PRIMARY KEY, title text NOT NULL)";

/// What is stored, as any other client sees it.
pub(crate) async fn titles(node: &Node) -> Vec<String> {
    let mut connection = node.connect().await.unwrap();
    sqlx::query_scalar("SELECT title FROM notes ORDER BY id")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

/// An engine, not open, with this many connections at the most.
pub(crate) fn engine_of(mut config: EngineConfig, max_connections: u32) -> Engine {
    config.pool = PoolConfig { max_connections, ..config.pool };
    Engine::new(config).unwrap()
}

/// A client that sends a GET and has not read the answer; dropped, it is gone.
pub(crate) async fn send_get(url: &str, path: &str) -> TcpStream {
    let mut socket = dial(url).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

/// A bare connection to the server of this URL.
pub(crate) async fn dial(url: &str) -> TcpStream {
    let address = url.strip_prefix("http://").unwrap();
    TcpStream::connect(address).await.unwrap()
}

/// Serves a router without flautino's `serve`; answers its URL.
pub(crate) async fn serve_plainly(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    url
}
