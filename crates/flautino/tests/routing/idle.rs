//! What one idle instance of an app costs the servers, counted by the servers themselves: its sessions and
//! its statements. The README counts many instances by these numbers.

use std::time::Instant;

use flautino::Engine;
use flautino_cluster::{Cluster, Node};
use flautino_lab::{
    ask, config, open, sessions_of, settings, status_of, until_sessions, wait_until,
};

use crate::common::{MAIN, REPLICAS, open_reading};

const NAME: &str = "idle";
/// How many probes of each node are watched.
const PROBES: u64 = 4;
/// How many readings by a clock may lie at both ends of what is watched.
const AT_THE_ENDS: f64 = 2.0;

async fn servers(replicas: usize) -> Cluster {
    let builder = Cluster::builder().replicas(replicas).setting("log_statement", "all");
    builder.start().await.unwrap()
}

/// The name of the sessions for this purpose.
fn beside(purpose: &str) -> String {
    format!("{NAME} (flautino {purpose})")
}

/// How many messages with statements the server has got from sessions of this name.
fn statements(node: &Node, name: &str) -> usize {
    let sent = |line: &&str| {
        let asks = line.contains("LOG:  statement: ") || line.contains("LOG:  execute ");
        asks && line.contains(&format!("] {name} LOG:"))
    };
    node.log().lines().filter(sent).count()
}

async fn expect_sessions(node: &Node, expected: &[(&str, i64)]) {
    for (name, count) in expected {
        until_sessions(node, name, *count).await;
    }
    // What functions leave in sessions is read over another, for a moment.
    let all = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'idle%'";
    let sum: i64 = expected.iter().map(|(_, count)| count).sum();
    wait_until("there are no others", async || ask::<i64>(node, all).await == sum).await;
}

fn probes(engine: &Engine, node: &str) -> u64 {
    status_of(engine, node).probes
}

#[tokio::test]
async fn with_replicas_it_holds_three_sessions_on_the_primary_and_two_on_each_replica() {
    let cluster = servers(2).await;
    let mut config = config(&cluster, NAME);
    // A probe that is late is sent again at once.
    settings::patient_probes(&mut config);
    let engine = open_reading(config, &REPLICAS[..2]).await;
    let (monitor, catalogue) = (beside("monitor"), beside("catalogue"));
    let on_primary = [(NAME, 1), (&*monitor, 1), (&*catalogue, 1)];
    expect_sessions(cluster.primary(), &on_primary).await;
    for replica in cluster.nodes().skip(1) {
        expect_sessions(replica, &[(NAME, 1), (&*monitor, 1)]).await;
    }

    let names = [NAME, &*monitor, &*catalogue];
    let count = || -> Vec<[usize; 3]> {
        cluster.nodes().map(|node| names.map(|name| statements(node, name))).collect()
    };
    let (began, before) = (Instant::now(), count());
    let first = [MAIN, REPLICAS[0], REPLICAS[1]].map(|node| (node, probes(&engine, node)));
    wait_until("each node was probed several times", async || {
        first.iter().all(|(node, first)| probes(&engine, node) >= first + PROBES)
    })
    .await;
    let after = count();
    // A probe comes two tenths before its interval is over at the earliest.
    let seconds = began.elapsed().as_secs_f64();
    let interval = engine.routing().probe_interval.as_secs_f64();
    let most_probes = seconds / (interval * 0.8) + AT_THE_ENDS;
    let most_checks = seconds + AT_THE_ENDS;
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        let sent = |of: usize| f64::from(u32::try_from(after[of] - before[of]).unwrap());
        assert_eq!(sent(0), 0.0, "the pool of node {number} sends nothing");
        assert!(sent(1) <= most_probes, "{} probes in {seconds} s", sent(1));
        assert!(sent(1) >= 1.0);
        assert!(sent(2) <= most_checks, "{} looks at the catalogue in {seconds} s", sent(2));
        assert!(number == 0 || sent(2) == 0.0);
    }
    engine.close().await;
}

#[tokio::test]
async fn without_replicas_it_holds_one_session_and_asks_nothing() {
    let cluster = servers(0).await;
    let engine = open(config(&cluster, NAME)).await;
    expect_sessions(cluster.primary(), &[(NAME, 1)]).await;
    let (primary, monitor) = (cluster.primary(), beside("monitor"));
    let before = statements(primary, NAME);
    let began = Instant::now();
    wait_until("probes would have come", async || {
        began.elapsed() > 2 * engine.routing().probe_interval
    })
    .await;
    assert_eq!(statements(primary, NAME), before);
    assert_eq!((statements(primary, &monitor), sessions_of(primary, &monitor).await), (0, 0));
    engine.close().await;
}
