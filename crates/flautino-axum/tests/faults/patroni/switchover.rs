//! A planned switchover under load, of asynchronous replicas, since it loses nothing with those either.

use std::time::Instant;

use super::{print_waits, start};
use crate::common::MAIN;
use crate::load::{Load, Op, Way, assert_none};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_costs_no_read_and_no_write_that_can_be_sent_again() {
    let Some(rig) = start("switchover").await else { return };
    let load = Load::start(&rig);
    load.a_while().await;
    let before = Instant::now();
    let leader = rig.cluster.switchover(Some("p2")).await.unwrap().name();
    assert_eq!(leader, "p2");
    let after = Instant::now();
    load.a_while().await;
    assert_eq!(rig.engine.status().primary.as_deref(), Some("p2"));
    rig.until_main_serves_reads().await;
    load.a_while().await;
    let tally = load.stop().await;

    tally.assert_no_read_failed();
    print_waits(&tally, before);
    tally.assert_free_reads_untouched();
    let failed = || tally.writes().filter(|op| !op.is_done());
    // The old leader ends its sessions. What was sent is sent again at the new one; a `COMMIT` without an
    // answer is not, nor a transaction in the middle, which only its author can run again.
    let is_cut = |op: &&Op| {
        let bound = matches!(op.way, Way::Transaction | Way::HttpTx);
        let unknown = op.way == Way::Closure && op.kind() == "CommitUnknown";
        (bound || unknown) && op.started < after && op.ended() > before
    };
    assert_none("writes", failed().filter(|op| !is_cut(op)));
    for way in [Way::Transaction, Way::HttpTx, Way::Closure] {
        let cut: Vec<_> = failed().filter(|op| op.way == way).collect();
        println!("{way:?}: {} cut in the middle", cut.len());
        assert!(cut.len() <= 1, "{cut:#?}");
    }
    assert!(tally.reads().any(|op| op.node.as_deref() == Some(MAIN)), "it was not read from");
    rig.assert_ledger(&tally).await;
    rig.stop().await;
}
