//! Notifications that follow the primary.

use std::collections::BTreeMap;
use std::time::Duration;

use flautino::{Engine, EngineConfig, Error, Event, Listener, NodeConfig};
use flautino_cluster::Node;
use flautino_lab::{Lab, ask, sessions_of, until_sessions, wait_until};

const NAME: &str = "listen (listening)";

/// The next event, as `channel payload` or `gap`.
async fn heard(listener: &mut Listener) -> String {
    let next = tokio::time::timeout(Duration::from_secs(90), listener.next());
    match next.await.expect("an event in time").expect("the engine is open") {
        Event::Notification(told) => format!("{} {}", told.channel(), told.payload()),
        Event::Gap => "gap".to_owned(),
        other => panic!("{other:?}"),
    }
}

async fn notify(engine: &Engine, channel: &str, payload: &str) {
    let notify = sqlx::query("SELECT pg_notify($1, $2)").bind(channel).bind(payload);
    notify.execute(&engine.handle()).await.unwrap();
}

#[tokio::test]
async fn what_is_notified_comes_in_its_order_and_from_the_channels_asked_for() {
    let lab = Lab::named("listen").replicas(1).start().await;
    let mut listener = lab.engine.listen(["prices", "Two Words"]).await.unwrap();
    for (channel, payload) in
        [("prices", "1"), ("others", "2"), ("Two Words", "3"), ("prices", "4")]
    {
        notify(&lab.engine, channel, payload).await;
    }
    for told in ["prices 1", "Two Words 3", "prices 4"] {
        assert_eq!(heard(&mut listener).await, told);
    }
    assert_eq!(sessions_of(lab.primary(), NAME).await, 1);
    drop(listener);
    until_sessions(lab.primary(), NAME, 0).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn a_lost_connection_is_a_gap_and_then_it_goes_on() {
    let lab = Lab::named("listen").start().await;
    let mut listener = lab.engine.listen(["prices"]).await.unwrap();
    for round in 0..3 {
        lab.primary().execute(&terminate()).await.unwrap();
        assert_eq!(heard(&mut listener).await, "gap");
        // What is notified meanwhile is lost, and the second gap says so.
        assert_eq!(heard(&mut listener).await, "gap");
        notify(&lab.engine, "prices", &round.to_string()).await;
        assert_eq!(heard(&mut listener).await, format!("prices {round}"));
    }
    lab.engine.close().await;
    assert!(listener.next().await.is_none());
    until_sessions(lab.primary(), NAME, 0).await;
}

fn terminate() -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{NAME}'"
    )
}

#[tokio::test]
async fn after_a_promotion_it_listens_to_the_new_primary_also_where_the_old_one_goes_on() {
    let lab = Lab::named("listen").replicas(1).start().await;
    let mut listener = lab.engine.listen(["prices"]).await.unwrap();
    notify(&lab.engine, "prices", "before").await;
    assert_eq!(heard(&mut listener).await, "prices before");
    // The old primary is not told.
    lab.cluster.replica(0).promote().await.unwrap();
    assert_eq!(heard(&mut listener).await, "gap");
    assert_eq!(heard(&mut listener).await, "gap");
    stray(lab.primary()).await;
    notify(&lab.engine, "prices", "after").await;
    assert_eq!(heard(&mut listener).await, "prices after");
    until_sessions(lab.primary(), NAME, 0).await;
    lab.engine.close().await;
}

/// Somebody notifies on the old primary.
async fn stray(node: &Node) {
    node.execute("SELECT pg_notify('prices', 'stray')").await.unwrap();
}

#[tokio::test]
async fn a_primary_that_is_killed_is_left_for_its_successor() {
    let lab = Lab::named("listen").replicas(1).start().await;
    let mut listener = lab.engine.listen(["prices"]).await.unwrap();
    lab.primary().kill().await.unwrap();
    assert_eq!(heard(&mut listener).await, "gap");
    lab.cluster.replica(0).promote().await.unwrap();
    assert_eq!(heard(&mut listener).await, "gap");
    notify(&lab.engine, "prices", "after").await;
    assert_eq!(heard(&mut listener).await, "prices after");
    lab.engine.close().await;
}

#[tokio::test]
async fn where_nobody_reads_the_server_keeps_nothing_and_a_gap_tells_what_was_dropped() {
    let lab = Lab::named("listen").start().await;
    let mut listener = lab.engine.listen(["prices"]).await.unwrap();
    let many =
        "SELECT pg_notify('prices', n::text || repeat('x', 1000)) FROM generate_series(1, 5000) n";
    lab.primary().execute(many).await.unwrap();
    wait_until("the server has got rid of them", async || {
        // A listener's place in the queue moves on as it reads.
        ask::<f64>(lab.primary(), "SELECT pg_notification_queue_usage()").await == 0.0
    })
    .await;
    let mut count = 0;
    loop {
        let told = heard(&mut listener).await;
        if told == "gap" {
            break;
        }
        count += 1;
        assert!(told.starts_with(&format!("prices {count}x")), "{told}");
    }
    assert_eq!(count, 1024);
    notify(&lab.engine, "prices", "and on").await;
    assert_eq!(heard(&mut listener).await, "prices and on");
    lab.engine.close().await;
}

#[tokio::test]
async fn where_it_cannot_listen_the_error_says_why() {
    let lab = Lab::named("listen").replicas(1).start_closed().await;
    let closed = lab.engine.listen(["prices"]).await.unwrap_err();
    assert!(matches!(Error::of(&closed), Some(Error::Closed { .. })), "{closed}");
    for (config, part) in [
        (
            NodeConfig { pgbouncer: true, url: Some(lab.primary().url()), ..NodeConfig::default() },
            "PgBouncer",
        ),
        (
            NodeConfig { url: Some(lab.cluster.replica(0).url()), ..NodeConfig::default() },
            "recovery",
        ),
    ] {
        let config = EngineConfig { main: config, extensions: vec![], ..EngineConfig::default() };
        let engine = flautino_lab::open(config).await;
        let error = engine.listen(["prices"]).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        engine.close().await;
    }
}

#[tokio::test]
async fn a_connection_that_the_network_swallows_is_noticed() {
    let lab = Lab::named("listen").behind_proxy().start().await;
    let mut listener = lab.engine.listen(["prices"]).await.unwrap();
    lab.proxy().stall();
    assert_eq!(heard(&mut listener).await, "gap");
    lab.proxy().heal().unwrap();
    assert_eq!(heard(&mut listener).await, "gap");
    notify(&lab.engine, "prices", "after").await;
    assert_eq!(heard(&mut listener).await, "prices after");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_connection_that_hangs_is_noticed_though_the_node_answers_its_probes() {
    let lab = Lab::named("listen").replicas(1).start().await;
    let mut listener = lab.engine.listen(["prices"]).await.unwrap();
    let sql = format!("SELECT pid::bigint FROM pg_stat_activity WHERE application_name = '{NAME}'");
    let pid = ask::<i64>(lab.primary(), &sql).await.to_string();
    signal("-STOP", &pid);
    let gap = heard(&mut listener).await;
    signal("-CONT", &pid);
    assert_eq!(gap, "gap");
    assert_eq!(heard(&mut listener).await, "gap");
    notify(&lab.engine, "prices", "after").await;
    assert_eq!(heard(&mut listener).await, "prices after");
    lab.engine.close().await;
}

fn signal(name: &str, pid: &str) {
    let status = std::process::Command::new("kill").args([name, pid]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn when_the_engine_is_closed_so_is_its_connection() {
    let lab = Lab::named("listen").start().await;
    let mut listener = lab.engine.listen(["prices"]).await.unwrap();
    lab.engine.close().await;
    assert!(listener.next().await.is_none());
    // The server needs a moment to end the process of a connection that was closed in order.
    until_sessions(lab.primary(), NAME, 0).await;
}

#[tokio::test]
async fn it_goes_back_to_the_only_node_that_is_left() {
    let lab = Lab::named("listen").replicas(1).start().await;
    let mut listener = lab.engine.listen(["prices"]).await.unwrap();
    lab.cluster.replica(0).promote().await.unwrap();
    assert_eq!(heard(&mut listener).await, "gap");
    assert_eq!(heard(&mut listener).await, "gap");
    // From now on all statements go to the old primary.
    lab.engine.set_nodes(BTreeMap::new()).await.unwrap();
    assert_eq!(heard(&mut listener).await, "gap");
    assert_eq!(heard(&mut listener).await, "gap");
    notify(&lab.engine, "prices", "there").await;
    assert_eq!(heard(&mut listener).await, "prices there");
    lab.engine.close().await;
}
