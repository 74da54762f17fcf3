//! The app is told to stop under full load: what is in flight is answered, or cut at the drain
//! deadline and reported; nothing new is accepted; it ends in time, and at once when told twice.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flautino_cluster::{Cluster, Node};
use flautino_lab::{ask, until_running, until_sessions, wait_until};
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use reqwest::{Client, Response};
use tokio::task::JoinHandle;

use crate::child::{Child, Report};
use crate::common::{AT_ONCE, SLACK, cluster};

/// How long the app may take beyond its drain time.
const GRACE: Duration = Duration::from_secs(5);
const REQUESTS: usize = 200;
/// Half of the requests come over HTTP/1, a connection each, the others over four of HTTP/2.
const STREAMS: usize = 4;

/// Clients of both kinds, by turns.
struct Clients {
    one: Client,
    two: Vec<Client>,
}

impl Clients {
    fn new() -> Self {
        let builder = || Client::builder().timeout(Duration::from_secs(60));
        let two = (0..STREAMS).map(|_| builder().http2_prior_knowledge().build().unwrap());
        Self { one: builder().build().unwrap(), two: two.collect() }
    }

    fn get(&self, n: usize) -> &Client {
        if n.is_multiple_of(2) { &self.one } else { &self.two[n / 2 % STREAMS] }
    }

    /// A read, a write, or a transaction, which take so long in the database; its id is `n`.
    async fn request(&self, app: &Child, n: usize, ms: u64) -> reqwest::Result<Response> {
        let client = self.get(n);
        let url = |path: &str| format!("{}/{path}/{n}/{ms}", app.url);
        match n / 2 % 4 {
            0 => client.post(url("write")).send().await,
            1 => client.post(url("tx")).send().await,
            _ => client.get(url("read")).send().await,
        }
    }

    /// Opens the connections that are kept alive.
    async fn warm_up(&self, app: &Child) {
        let reads = join_all((0..REQUESTS).map(async |n| {
            let url = format!("{}/livez", app.url);
            self.get(n).get(url).send().await.unwrap().text().await.unwrap()
        }));
        reads.await;
    }
}

/// Whether the request of that id stores it.
const fn is_write(n: usize) -> bool {
    n / 2 % 4 < 2
}

/// How often each id was stored.
async fn stored(node: &Node) -> Vec<(usize, i64)> {
    let mut connection = node.connect().await.unwrap();
    let sql = "SELECT id, count(*) FROM entries GROUP BY id ORDER BY id";
    let rows: Vec<(i64, i64)> = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
    rows.into_iter().map(|(id, count)| (id.try_into().unwrap(), count)).collect()
}

/// Waits until the app accepts no connection any more.
async fn until_refused(app: &Child) {
    let address = app.url.strip_prefix("http://").unwrap().to_owned();
    wait_until("new connections are refused", async || {
        tokio::net::TcpStream::connect(&address).await.is_err()
    })
    .await;
}

async fn no_session_is_left(cluster: &Cluster) {
    for node in cluster.nodes() {
        until_sessions(node, "told", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_in_flight_are_all_answered_and_no_new_one_is_accepted() {
    let cluster = cluster(2).await;
    let drain = Duration::from_secs(20);
    let mut app = Child::start(&cluster, drain).await;
    let clients = Clients::new();
    clients.warm_up(&app).await;
    // Most wait for a connection, in queues that take some four seconds.
    let answered = AtomicUsize::new(0);
    let answers = join_all((0..REQUESTS).map(async |n| {
        let answer = clients.request(&app, n, 400).await;
        answered.fetch_add(1, Ordering::Relaxed);
        (n, answer)
    }));
    let story = async {
        wait_until("all are in flight", async || app.begun().await == REQUESTS).await;
        app.send(Signal::SIGTERM);
        let signalled = Instant::now();
        until_refused(&app).await;
        (signalled, answered.load(Ordering::Relaxed))
    };
    let (answers, (signalled, before)) = tokio::join!(answers, story);
    // When it has answered all, it ends, and nobody listens any more.
    assert!(before < REQUESTS, "it accepted until all were answered");
    for (n, answer) in answers {
        let answer = answer.unwrap_or_else(|error| panic!("request {n} was dropped: {error:?}"));
        assert!(answer.status().is_success(), "request {n}: {answer:?}");
        assert_eq!(answer.text().await.unwrap(), "done", "request {n}");
    }
    let Report { requests_cut, connections_cut, begun, .. } = app.ended().await;
    let took = signalled.elapsed();
    println!("two hundred requests were answered in {took:?}");
    assert!(took < drain * 3 / 4, "it took {took:?}, with nothing left to do");
    assert_eq!((requests_cut, connections_cut, begun.len()), (0, 0, REQUESTS));
    let wanted: Vec<_> = (0..REQUESTS).filter(|n| is_write(*n)).map(|n| (n, 1)).collect();
    assert_eq!(stored(cluster.primary()).await, wanted);
    no_session_is_left(&cluster).await;
}

// On one thread: hyper's client may lose a request that is sent on another thread while its connection
// ends there, and never tells (hyper's issue 4122). The app has threads of its own.
#[tokio::test]
async fn under_load_that_goes_on_every_request_that_began_is_answered() {
    let cluster = cluster(2).await;
    let mut app = Child::start(&cluster, Duration::from_secs(20)).await;
    let clients = Clients::new();
    let next = AtomicUsize::new(0);
    let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Each client sends one request after the other, until the app takes no more.
    let crowd = join_all((0..REQUESTS).map(async |client| {
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            // Ids keep to the client's protocol.
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let n = turn * 2 + client % 2;
            match clients.request(&app, n, 20).await {
                Ok(answer) => {
                    let status = answer.status();
                    match answer.text().await {
                        Ok(body) if status.is_success() && body == "done" => done.push(n),
                        other => refused.push((n, format!("{status}: {other:?}"))),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => refused.push((n, format!("{error:?}"))),
            }
            if !refused.is_empty() {
                break;
            }
        }
        (done, refused)
    }));
    let story = async {
        wait_until("it is under load", async || answered.load(Ordering::Relaxed) > 1000).await;
        app.send(Signal::SIGTERM);
        let signalled = Instant::now();
        until_refused(&app).await;
        signalled
    };
    let (ended, signalled) = tokio::join!(crowd, story);
    stop.store(true, Ordering::Relaxed);
    let answered_after = signalled.elapsed();
    let report = app.ended().await;
    let took = signalled.elapsed();
    let done: BTreeSet<usize> = ended.iter().flat_map(|(done, _)| done).copied().collect();
    let refused: Vec<_> = ended.iter().flat_map(|(_, refused)| refused).collect();
    assert!(
        took < Duration::from_secs(10),
        "it took {took:?}, {answered_after:?} of them for clients; {report:#?}; {refused:#?}"
    );
    assert_eq!((report.requests_cut, report.connections_cut), (0, 0));

    let begun: BTreeSet<usize> = report.begun.into_iter().collect();
    println!("{} answered, {} refused, it took {took:?}", done.len(), refused.len());
    let dropped: Vec<_> = refused.iter().filter(|(n, _)| begun.contains(n)).collect();
    assert!(
        dropped.is_empty(),
        "{} requests began and were not answered, such as {:#?}",
        dropped.len(),
        &dropped[..dropped.len().min(4)]
    );
    assert_eq!(begun, done);
    let wanted: Vec<_> = done.into_iter().filter(|n| is_write(*n)).map(|n| (n, 1)).collect();
    assert_eq!(stored(cluster.primary()).await, wanted);
    no_session_is_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlasts_the_drain_deadline_is_cut_reported_and_rolled_back() {
    let cluster = cluster(2).await;
    let drain = Duration::from_secs(1);
    let mut app = Child::start(&cluster, drain).await;
    let clients = Clients::new();
    clients.warm_up(&app).await;
    let answers = join_all((0..REQUESTS).map(async |n| clients.request(&app, n, 60_000).await));
    let story = async {
        wait_until("all are in flight", async || app.begun().await == REQUESTS).await;
        app.send(Signal::SIGTERM);
        Instant::now()
    };
    let (answers, signalled) = tokio::join!(answers, story);
    let report = app.ended().await;
    let took = signalled.elapsed();
    println!("it was over after {took:?}: {report:?}");
    assert!(took >= drain && took < drain + GRACE, "it took {took:?}");
    assert_eq!(report.requests_cut, REQUESTS);
    assert_eq!(report.connections_cut, REQUESTS / 2 + STREAMS);
    for answer in answers {
        answer.unwrap_err();
    }
    // It does not leave its statements behind, either.
    no_session_is_left(&cluster).await;
    assert!(signalled.elapsed() < drain + GRACE, "{:?}", signalled.elapsed());
    assert_eq!(stored(cluster.primary()).await, []);
}

/// Tells it twice while it drains; answers how long it took from then on.
async fn told_twice(app: &mut Child) -> Duration {
    app.send(Signal::SIGTERM);
    until_refused(app).await;
    // The second signal is listened to only when the first has been answered.
    tokio::time::sleep(SLACK).await;
    app.send(Signal::SIGTERM);
    let again = Instant::now();
    app.ended().await;
    again.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_with_requests_in_flight() {
    let cluster = cluster(2).await;
    let mut app = Child::start(&cluster, Duration::from_secs(20)).await;
    let url = app.url.clone();
    let clients = Clients::new();
    clients.warm_up(&app).await;
    let requests: Vec<_> = (0..REQUESTS)
        .map(|n| tokio::spawn(clients.get(n).get(format!("{url}/read/{n}/60000")).send()))
        .collect();
    wait_until("all are in flight", async || app.begun().await == REQUESTS).await;
    let took = told_twice(&mut app).await;
    println!("it was over after {took:?}");
    // Without the second signal it is twenty seconds.
    assert!(took < 2 * AT_ONCE, "it took {took:?}");
    for request in requests {
        request.await.unwrap().unwrap_err();
    }
    no_session_is_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_with_statements_of_background_tasks() {
    let cluster = cluster(2).await;
    let mut app = Child::start(&cluster, Duration::from_secs(20)).await;
    for n in 0..5 {
        let url = format!("{}/background/{n}/60000", app.url);
        let answer = Client::new().post(url).send().await.unwrap();
        assert_eq!(answer.status(), 202);
    }
    let running = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'told' \
                   AND state = 'active' AND query LIKE '%pg_sleep%'";
    wait_until("they run", async || ask::<i64>(cluster.primary(), running).await == 5).await;
    let took = told_twice(&mut app).await;
    println!("it was over after {took:?}");
    // The pool gives what it cuts a second, and its goodbyes another.
    assert!(took < 2 * AT_ONCE, "it took {took:?}");
    no_session_is_left(&cluster).await;
    assert_eq!(stored(cluster.primary()).await, []);
}

/// A request whose handler blocks its thread while the statement runs.
async fn with_a_blocking_request(
    cluster: &Cluster,
    drain: Duration,
) -> (Child, JoinHandle<reqwest::Result<Response>>) {
    let app = Child::start(cluster, drain).await;
    let url = format!("{}/blocking/0/60000", app.url);
    let request = tokio::spawn(reqwest::get(url));
    until_running(cluster.primary(), "told", "SELECT pg_sleep($1 / 1000)").await;
    (app, request)
}

/// Its connection is cut, or an error is what still came over it.
async fn is_not_answered(request: JoinHandle<reqwest::Result<Response>>) {
    request.await.unwrap().and_then(Response::error_for_status).unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_does_not_hold_up_the_end() {
    let cluster = cluster(0).await;
    let drain = Duration::from_millis(300);
    let (mut app, request) = with_a_blocking_request(&cluster, drain).await;
    app.send(Signal::SIGTERM);
    let signalled = Instant::now();
    let report = app.ended().await;
    let took = signalled.elapsed();
    println!("it was over after {took:?}: {report:?}");
    assert!(took < drain + GRACE, "it took {took:?}");
    assert_eq!((report.requests_cut, report.connections_cut), (1, 1));
    no_session_is_left(&cluster).await;
    is_not_answered(request).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_with_a_handler_that_blocks_its_thread() {
    let cluster = cluster(0).await;
    let (mut app, request) = with_a_blocking_request(&cluster, Duration::from_secs(20)).await;
    let took = told_twice(&mut app).await;
    println!("it was over after {took:?}");
    assert!(took < 2 * AT_ONCE, "it took {took:?}");
    no_session_is_left(&cluster).await;
    is_not_answered(request).await;
}
