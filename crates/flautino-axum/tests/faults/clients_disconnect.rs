//! Clients go away by the thousand, amid reads, writes and transactions: their statements end at the
//! servers within two seconds, the pools are whole, and nothing they wrote is there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_cluster::Cluster;
use flautino_lab::{App, Lab, config, run, wait_until};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use sqlx::PgConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{ENTRIES, MAIN, REPLICAS, cluster};

const SOON: Duration = Duration::from_secs(2);
/// The default.
const MOST: i64 = 10;
/// So many are there at any time.
const CROWD: usize = 60;

async fn read(db: Db) -> Result<(), DbError> {
    sqlx::query("SELECT pg_sleep(30)").execute(&db).await?;
    Ok(())
}

async fn write(db: Db) -> Result<(), DbError> {
    let sql = "INSERT INTO entries SELECT 1 FROM (SELECT pg_sleep(30)) AS slept";
    sqlx::query(sql).execute(&db).await?;
    Ok(())
}

/// Stores at once, and then takes its time.
async fn transaction(mut tx: Tx) -> Result<(), DbError> {
    sqlx::query("INSERT INTO entries VALUES (2)").execute(&mut tx).await?;
    sqlx::query("SELECT pg_sleep(30)").execute(&mut tx).await?;
    Ok(())
}

/// The same in the handler's own transaction, idle in the middle of it.
async fn idle(db: Db) -> Result<(), DbError> {
    db.transaction(async move |tx| {
        sqlx::query("INSERT INTO entries VALUES (3)").execute(tx).await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        Ok::<_, sqlx::Error>(())
    })
    .await?;
    Ok(())
}

fn app(engine: &Engine) -> Router {
    Router::new()
        .route("/read", get(read))
        .route("/write", post(write))
        .route("/tx", post(transaction))
        .route("/idle", post(idle))
        .layer(EngineLayer::new(engine.clone()))
}

/// A client that is gone after so long; what it was told before.
async fn client(url: &str, request: &str, patience: Duration) -> Option<String> {
    let address = url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: test\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 64];
    let read = tokio::time::timeout(patience, socket.read(&mut answer)).await;
    read.ok().map(|length| String::from_utf8_lossy(&answer[..length.unwrap()]).into_owned())
}

/// Clients of these numbers, each gone after 0 to 200 ms: before its request is read, in the queue for
/// a connection, in the middle of a statement. Returns what they were told.
async fn storm(url: &str, requests: &[&str], clients: impl Iterator<Item = usize>) -> Vec<String> {
    let clients = clients.map(|n| {
        let patience = Duration::from_millis((n as u64 * 7) % 200);
        client(url, requests[n % requests.len()], patience)
    });
    let told = stream::iter(clients).buffer_unordered(CROWD).filter_map(async |told| told);
    told.collect().await
}

/// The app's sessions, and those that do something; over connections that were there before.
async fn sessions(watchers: &mut [PgConnection]) -> Vec<(i64, i64)> {
    let mut found = Vec::new();
    for watcher in watchers {
        let sql = "SELECT count(*), count(*) FILTER (WHERE query ~ 'entries|pg_sleep' \
                   AND state IN ('active', 'idle in transaction')) \
                   FROM pg_stat_activity WHERE application_name = 'storm' AND pid <> pg_backend_pid()";
        found.push(sqlx::query_as(sql).fetch_one(watcher).await.unwrap());
    }
    found
}

/// Every connection of the node at once.
async fn all_of(engine: &Engine, node: &str) {
    let db = engine.handle().node(node).unwrap();
    let leases = join_all((0..MOST).map(|_| db.acquire())).await;
    for lease in leases {
        let mut lease = lease.unwrap();
        sqlx::query("SELECT 1").execute(&mut lease).await.unwrap();
    }
}

async fn weather(cluster: &Cluster, requests: &[&str], clients: usize) {
    let engine = Engine::new(config(cluster, "storm")).unwrap();
    let app = App::start(app(&engine), engine.clone()).await;
    wait_until("replicas are in use", async || {
        engine.status().nodes.iter().skip(1).all(|node| node.reason.is_none()) && engine.is_ready()
    })
    .await;
    let mut watchers = Vec::new();
    for node in cluster.nodes() {
        watchers.push(node.connect().await.unwrap());
    }
    let mut quiet = Duration::MAX;
    // The best of two, so that a busy machine is no excuse.
    for _ in 0..2 {
        let told = storm(&app.url, requests, 0..clients).await;
        let left = Instant::now();
        let sent: u64 = engine.status().nodes.iter().map(|node| node.statements).sum();
        println!("{sent} statements were sent; {:?}", sessions(&mut watchers).await);
        wait_until("no statement runs, in no more sessions than allowed", async || {
            engine.status().nodes.iter().all(|node| node.in_flight == 0)
                && sessions(&mut watchers)
                    .await
                    .iter()
                    .all(|(all, busy)| *busy == 0 && *all <= MOST + 1)
        })
        .await;
        quiet = quiet.min(left.elapsed());
        println!("the servers are quiet after {:?}", left.elapsed());
        assert_eq!(told, [""; 0], "nobody waited long enough to be told anything");
        assert!(sent > 100, "{sent}");
        if quiet < SOON {
            break;
        }
    }
    assert!(quiet < SOON, "{quiet:?}");

    for name in [MAIN].iter().chain(&REPLICAS) {
        all_of(&engine, name).await;
    }
    let stored: i64 = flautino_lab::ask(cluster.primary(), "SELECT count(*) FROM entries").await;
    assert_eq!(stored, 0, "what nobody waited for was stored");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_readers_that_leave_cost_no_connection() {
    let cluster = cluster(2).await;
    weather(&cluster, &["GET /read"], 2000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_writers_that_leave_cost_no_connection_and_are_rolled_back() {
    let cluster = cluster(2).await;
    weather(&cluster, &["POST /write", "POST /tx", "POST /idle"], 2000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_stay_are_served_while_a_thousand_leave() {
    // So many reads are served before the storm ends. If those who come later were served first, the
    // reads would wait for the end of the storm, and time out.
    const ENOUGH: usize = 20;
    let lab = Lab::named("storm")
        .replicas(2)
        .table(ENTRIES)
        .config(|config| config.pool.acquire_timeout = Duration::from_secs(60))
        .start_closed()
        .await;
    let app = App::start(app(&lab.engine), lab.engine.clone()).await;
    wait_until("the app is ready", async || lab.engine.is_ready()).await;
    let served = AtomicUsize::new(0);
    let clients = (0..).take_while(|n| *n < 1000 || served.load(Ordering::Relaxed) < ENOUGH);
    let storm = storm(&app.url, &["GET /read", "POST /write", "POST /tx"], clients);
    let stay = async {
        loop {
            run(&lab.engine.handle(), "SELECT 1").await.unwrap();
            served.fetch_add(1, Ordering::Relaxed);
        }
    };
    tokio::select! {
        told = storm => assert_eq!(told, [""; 0]),
        () = stay => unreachable!(),
    }
    println!("{} served", served.into_inner());
    app.stop().await;
}
