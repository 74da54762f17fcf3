//! Each reason occurs: in the session's timings, and in the engine's counters.

use std::time::Duration;

use flautino::router::Reason;
use flautino::{Consistency, Engine, Handle, Token};
use flautino_cluster::Cluster;
use flautino_lab::{catch_up, config, summed, wait_until};

use crate::common::{
    MAIN, REPLICAS, cascade, decisions, is_replica, open_reading, until_reads_from, why,
};

const READ: &str = "SELECT count(*) FROM t";

async fn cascade_with_table() -> Cluster {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    cluster
}

/// Runs the statement, which must go there for that reason and count once.
async fn expect(engine: &Engine, db: &Handle, sql: &str, on_main: bool, reason: Reason) {
    let before = decisions(engine, reason);
    let (node, said) = why(db, sql).await;
    assert_eq!(said, reason, "{sql} on {node}");
    assert_eq!((node == MAIN, is_replica(&node)), (on_main, !on_main), "{reason:?}: {node}");
    assert_eq!(decisions(engine, reason), before + 1, "{reason:?}");
}

fn observing(engine: &Engine, token: &str) -> Handle {
    let db = engine.handle().recorded();
    let token = token.parse::<Token>().or_else(|_| summed(token).parse());
    db.observe(&token.unwrap());
    db
}

#[tokio::test]
async fn before_open_it_is_the_main_node() {
    let cluster = cascade_with_table().await;
    let engine = Engine::new(config(&cluster, "unopened")).unwrap();
    expect(&engine, &engine.handle().recorded(), READ, true, Reason::MainNode).await;
}

#[tokio::test]
async fn reasons_of_sessions_that_need_nothing_wrote_or_brought_a_token() {
    let cluster = cascade_with_table().await;
    let mut config = config(&cluster, "reasons");
    // What the first probes said stays.
    config.routing.probe_interval = Duration::from_secs(60);
    config.routing.position_rate = 0;
    config.routing.max_lag = Duration::from_secs(300);
    config.routing.token_window = Duration::from_secs(300);
    config.routing.probe_timeout = Duration::from_secs(5);
    let engine = open_reading(config, &REPLICAS).await;
    let db = || engine.handle().recorded();
    expect(&engine, &db(), READ, false, Reason::NoFloor).await;
    let strong = db().with_consistency(Consistency::Strong);
    expect(&engine, &strong, READ, true, Reason::Strong).await;

    let session = db().with_consistency(Consistency::Session);
    expect(&engine, &session, READ, false, Reason::NoFloor).await;
    expect(&engine, &session, READ, false, Reason::SameNode).await;
    let nodes: Vec<_> = session.timings().into_iter().map(|timing| timing.node).collect();
    assert_eq!(nodes[0], nodes[1]);

    for replica in cluster.nodes().skip(1) {
        replica.pause_replay().await.unwrap();
    }
    let writer = db();
    expect(&engine, &writer, "INSERT INTO t VALUES (1)", true, Reason::Write).await;
    expect(&engine, &writer, READ, true, Reason::OwnWrite).await;
    let eventual = writer.with_consistency(Consistency::Eventual);
    expect(&engine, &eventual, READ, false, Reason::NoFloor).await;
    let token = writer.token().await.unwrap().to_string();
    expect(&engine, &observing(&engine, &token), READ, true, Reason::FloorAhead).await;
    let replica_wanted = observing(&engine, &token).replica();
    expect(&engine, &replica_wanted, READ, true, Reason::FloorAhead).await;

    expect(&engine, &observing(&engine, "1.1.1.1"), READ, true, Reason::ForeignToken).await;
    let unreadable = db();
    unreadable.observe_unreadable();
    expect(&engine, &unreadable, READ, true, Reason::ForeignToken).await;
    let forever = "1.until.ffffffffff";
    expect(&engine, &observing(&engine, forever), READ, true, Reason::TokenWindow).await;
    engine.close().await;
}

#[tokio::test]
async fn a_replica_that_has_the_session_s_write_serves_it_and_the_floor_is_met() {
    let cluster = cascade_with_table().await;
    let mut config = config(&cluster, "met");
    config.routing.probe_timeout = Duration::from_secs(5);
    let engine = open_reading(config, &REPLICAS).await;
    let writer = engine.handle().recorded();
    expect(&engine, &writer, "INSERT INTO t VALUES (1)", true, Reason::Write).await;
    let token = writer.token().await.unwrap().to_string();
    catch_up(&cluster).await;
    wait_until("a replica is known to have it", async || {
        let db = observing(&engine, &token);
        let (node, reason) = why(&db, READ).await;
        assert_eq!(is_replica(&node), reason == Reason::FloorMet, "{node} {reason:?}");
        reason == Reason::FloorMet
    })
    .await;
    assert!(decisions(&engine, Reason::FloorMet) > 0);
    engine.close().await;
}

#[tokio::test]
async fn lagging_gone_and_stale_replicas_each_have_their_reason() {
    let cluster = cascade_with_table().await;
    let mut config = config(&cluster, "gone");
    config.routing.max_lag = Duration::from_secs(1);
    let engine = open_reading(config, &REPLICAS).await;
    for replica in cluster.nodes().skip(1) {
        replica.pause_replay().await.unwrap();
    }
    cluster.primary().execute("INSERT INTO t VALUES (1)").await.unwrap();
    until_reads_from(&engine, &[MAIN]).await;
    expect(&engine, &engine.handle().recorded(), READ, true, Reason::Lagging).await;

    // A dead primary: they lag for ever, and are all there is.
    cluster.primary().kill().await.unwrap();
    wait_until("it is known to be gone", async || engine.status().primary.is_none()).await;
    until_reads_from(&engine, &REPLICAS).await;
    expect(&engine, &engine.handle().recorded(), READ, false, Reason::Stale).await;

    cluster.primary().start().await.unwrap();
    for replica in cluster.nodes().skip(1) {
        replica.kill().await.unwrap();
    }
    until_reads_from(&engine, &[MAIN]).await;
    wait_until("all are known to be down", async || {
        let db = engine.handle().recorded();
        why(&db, READ).await == (MAIN.to_owned(), Reason::NoReplica)
    })
    .await;
    expect(&engine, &engine.handle().recorded(), READ, true, Reason::NoReplica).await;
    engine.close().await;
}
