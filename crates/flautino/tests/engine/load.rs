//! What a load costs is what its statements cost: one round trip each, and nothing beside.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flautino::{Engine, EngineConfig, Handle};
use flautino_cluster::{Cluster, Node, Proxy};
use flautino_lab::{
    Lab, cluster, config, open, running, sessions_of, wait_until, wait_until_or_tell,
};
use futures_util::future::join_all;

/// The connections of a pool.
const POOL: i64 = 16;
/// Tasks, and the statements of each.
const LOADS: [(usize, u64); 5] = [(15, 200), (16, 200), (17, 200), (64, 200), (512, 25)];

/// Prepared on a connection when it is first sent there; it lasts as long as it is told to.
const STATEMENT: &str = "SELECT $1::int8 FROM pg_sleep($2)";

async fn send(db: &Handle, number: i64, seconds: f64) {
    let statement = sqlx::query_scalar::<_, i64>(STATEMENT).bind(number).bind(seconds);
    assert_eq!(statement.fetch_one(db).await.unwrap(), number);
}

/// Nothing but the load itself is a reason to speak to the server.
fn adjust(config: &mut EngineConfig) {
    config.pool.max_connections = 16;
    // However slow the machine is.
    config.pool.warm_time = Duration::from_secs(600);
    config.pool.acquire_timeout = Duration::from_secs(60);
    // A slow answer on a busy machine does not turn a node down.
    config.routing.probe_timeout = Duration::from_secs(20);
    config.routing.failures_to_down = 20;
}

/// Until every connection that the pool may have is there and has the statement prepared.
async fn prepare_everywhere(node: &Node, name: &str, db: &Handle) {
    wait_until("all connections have run the statement at once", async || {
        let done = Cell::new(false);
        // To their ends: what is abandoned may cost its connection.
        let all = async {
            join_all((0..POOL).map(|number| send(db, number, 0.5))).await;
            done.set(true);
        };
        let watch = async {
            let mut most = 0;
            while most < POOL && !done.get() {
                most = running(node, name, STATEMENT).await.max(most);
            }
            most
        };
        tokio::join!(all, watch).1 == POOL
    })
    .await;
}

/// Runs one load; answers the most tasks that were alive at any time, those of the load included.
async fn run_load(db: &Handle, tasks: usize, each: u64) -> usize {
    let most = Arc::new(AtomicUsize::new(0));
    let work: Vec<_> = (0..tasks)
        .map(|_| {
            let (db, most) = (db.clone(), Arc::clone(&most));
            tokio::spawn(async move {
                for number in 0..each {
                    send(&db, i64::try_from(number).unwrap(), 0.0).await;
                    // A task that gives the connection back has not run yet.
                    most.fetch_max(alive(), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in work {
        task.await.unwrap();
    }
    most.load(Ordering::Relaxed)
}

fn alive() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

fn statements(engine: &Engine) -> Vec<u64> {
    engine.status().nodes.iter().map(|node| node.statements).collect()
}

/// One thread: what is spawned for a statement is still there when the statement's task goes on.
#[tokio::test]
async fn a_load_costs_a_round_trip_a_statement_and_neither_a_connection_nor_a_task() {
    let lab = Lab::named("load").behind_proxy().config(adjust).start().await;
    prepare_everywhere(lab.primary(), "load", &lab.db).await;
    for (tasks, each) in LOADS {
        // What the last load left behind is over.
        wait_until("all rest", async || lab.pool().idle == 16).await;
        let (sent, before) = (statements(&lab.engine)[0], alive());
        lab.proxy().reset_counters();
        let most = run_load(&lab.db, tasks, each).await;
        let count = each * u64::try_from(tasks).unwrap();
        assert_eq!(statements(&lab.engine)[0] - sent, count, "{tasks} tasks");
        assert_eq!(lab.proxy().round_trips(), count, "{tasks} tasks");
        assert_eq!(lab.proxy().accepted(), 0, "{tasks} tasks");
        assert!(most <= before + tasks, "{tasks} tasks: {most} alive, {before} before");
    }
    assert_eq!(sessions_of(lab.primary(), "load").await, POOL);
    lab.engine.close().await;
}

/// Threads that meet in the pool: as above, but for the tasks, which come and go unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn so_does_a_load_from_several_threads() {
    let lab = Lab::named("threads").behind_proxy().config(adjust).start().await;
    prepare_everywhere(lab.primary(), "threads", &lab.db).await;
    for (tasks, each) in [(17, 200), (64, 100)] {
        let sent = statements(&lab.engine)[0];
        lab.proxy().reset_counters();
        run_load(&lab.db, tasks, each).await;
        let count = each * u64::try_from(tasks).unwrap();
        assert_eq!(statements(&lab.engine)[0] - sent, count, "{tasks} tasks");
        assert_eq!(lab.proxy().round_trips(), count, "{tasks} tasks");
        assert_eq!(lab.proxy().accepted(), 0, "{tasks} tasks");
    }
    assert_eq!(sessions_of(lab.primary(), "threads").await, POOL);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_connection_that_is_used_all_the_time_is_never_looked_at() {
    let lab = Lab::named("always")
        .behind_proxy()
        .one_connection()
        .config(|config| config.pool.warm_time = Duration::from_secs(1))
        .start()
        .await;
    send(&lab.db, 0, 0.0).await;
    let (started, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    lab.proxy().reset_counters();
    let sent = statements(&lab.engine)[0];
    while started.elapsed() < Duration::from_secs(4) {
        send(&lab.db, 1, 0.0).await;
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    let sent = statements(&lab.engine)[0] - sent;
    // A machine that stood still for a second proves nothing.
    if longest < Duration::from_millis(900) {
        assert_eq!(lab.proxy().round_trips(), sent);
        assert_eq!(lab.proxy().accepted(), 0);
    }
    lab.engine.close().await;
}

/// A proxy in front of each of the cluster's nodes, in their order.
async fn in_front_of(cluster: &Cluster, config: &mut EngineConfig) -> Vec<Proxy> {
    let mut proxies = Vec::new();
    for node in cluster.nodes() {
        proxies.push(Proxy::start(node.addr()).await.unwrap());
    }
    config.main.url = Some(proxies[0].url());
    for (number, replica) in config.extra_nodes.values_mut().enumerate() {
        replica.url = Some(proxies[number + 1].url());
    }
    proxies
}

/// What was said to each replica beside its statements and the monitor's probes.
fn unexplained(engine: &Engine, proxies: &[Proxy]) -> Vec<i128> {
    let nodes = engine.status().nodes.into_iter().zip(proxies).skip(1);
    let difference = |said, explained| i128::from(said) - i128::from(explained);
    nodes
        .map(|(node, proxy)| {
            difference(proxy.round_trips(), node.statements + node.probes + node.token_probes)
        })
        .collect()
}

#[tokio::test]
async fn a_load_on_two_replicas_costs_each_its_part_and_the_probes() {
    let cluster = cluster(2).await;
    let mut config = config(&cluster, "replicas");
    adjust(&mut config);
    let proxies = in_front_of(&cluster, &mut config).await;
    let engine = open(config).await;
    let db = engine.handle();
    for (number, name) in ["read_replica_1", "read_replica_2"].into_iter().enumerate() {
        prepare_everywhere(cluster.replica(number), "replicas", &db.node(name).unwrap()).await;
    }
    let all_rest = async || {
        let pools = engine.status().nodes.into_iter().skip(1).map(|node| node.pool.unwrap());
        pools.into_iter().all(|pool| pool.idle == 16)
    };
    for (tasks, each) in LOADS {
        wait_until("all rest", all_rest).await;
        let (sent, before) = (statements(&engine), unexplained(&engine, &proxies));
        for proxy in &proxies[1..] {
            // Connections only; the round trips are compared as they are.
            assert!(proxy.connections() <= 17, "16 of the pool and the monitor's");
        }
        let accepted: Vec<_> = proxies[1..].iter().map(Proxy::accepted).collect();
        run_load(&db, tasks, each).await;
        let ran: Vec<_> =
            statements(&engine).iter().zip(&sent).map(|(now, then)| now - then).collect();
        let count = each * u64::try_from(tasks).unwrap();
        assert_eq!((ran[0], ran[1] + ran[2]), (0, count), "{tasks} tasks: {ran:?}");
        assert!(ran[1] > 0 && ran[2] > 0, "{tasks} tasks: {ran:?}");
        // A probe may be under way: counted, and not yet sent.
        let tell = || format!("{before:?} became {:?}", unexplained(&engine, &proxies));
        let nothing_else = async || unexplained(&engine, &proxies) == before;
        wait_until_or_tell("nothing else was said", nothing_else, tell).await;
        let after: Vec<_> = proxies[1..].iter().map(Proxy::accepted).collect();
        assert_eq!(after, accepted, "{tasks} tasks");
    }
    engine.close().await;
}
