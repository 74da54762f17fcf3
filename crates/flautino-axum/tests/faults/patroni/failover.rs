//! The leader is killed with its Patroni under load: the others elect a new one, and the old one comes back as
//! a replica. Replication is synchronous, since Patroni may promote a replica that lacks the last writes else.

use std::time::Instant;

use super::{print_waits, start};
use crate::common::MAIN;
use crate::load::{Load, Op, assert_none};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_costs_no_read_and_no_write_that_began_after_it_and_the_old_leader_comes_back() {
    let Some(rig) = start("failover").await else { return };
    rig.cluster.change_settings(r#"{"synchronous_mode": true}"#).await.unwrap();
    rig.cluster.until_synchronous().await.unwrap();
    let load = Load::start(&rig);
    load.a_while().await;
    let old = rig.member("p1");
    let before = Instant::now();
    old.kill().await;
    let dead = Instant::now();
    let new = rig.cluster.leader().await.unwrap().name();
    println!("{new} leads after {:?}", dead.elapsed());
    load.a_while().await;
    assert_eq!(rig.engine.status().primary.as_deref(), Some(new));

    old.start().await.unwrap();
    rig.cluster.until_streaming().await.unwrap();
    rig.until_main_serves_reads().await;
    load.a_while().await;
    let tally = load.stop().await;

    tally.assert_no_read_failed();
    print_waits(&tally, dead);
    tally.assert_free_reads_untouched();
    let failed = || tally.writes().filter(|op| !op.is_done());
    println!("{} writes failed, all under way when the leader was killed", failed().count());
    let under_way = |op: &&Op| op.started < dead && op.ended() > before;
    assert_none("writes that were not under way", failed().filter(|op| !under_way(op)));
    let waited = tally.writes().filter(|op| op.is_done() && op.started < dead && op.ended() > dead);
    println!("{} writes were under way and were done at the new leader", waited.count());
    assert!(tally.reads().any(|op| op.started > dead && op.node.as_deref() == Some(MAIN)));
    rig.assert_ledger(&tally).await;
    rig.stop().await;
}
