//! All nodes are restarted, one at a time: no read fails, and of writes only those that waited past
//! `failover_timeout`, or whose `COMMIT` was under way.

use std::time::Instant;

use crate::common::{MAIN, REPLICAS, Rig};
use crate::load::{Load, Op, Way, assert_none};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_all_nodes_costs_no_read_and_no_write_that_can_be_sent_again() {
    let rig = Rig::start("rolling", 2).await;
    let load = Load::start(&rig);
    load.a_while().await;
    let mut ended = Vec::new();
    // The replicas first, as one does.
    let mut nodes: Vec<_> = rig.cluster.nodes().zip([MAIN].into_iter().chain(REPLICAS)).collect();
    nodes.rotate_left(1);
    for (node, name) in nodes {
        let before = Instant::now();
        node.stop().await.unwrap();
        let stopped = Instant::now();
        // Not many: writes wait for the primary, and no longer than for `failover_timeout`.
        load.until_more(100, 0).await;
        node.start().await.unwrap();
        println!("{name} was away for {:?}", before.elapsed());
        load.a_while().await;
        rig.until_serves(name).await;
        load.a_while().await;
        ended.push((before, stopped));
    }
    let tally = load.stop().await;
    tally.assert_no_read_failed();
    tally.assert_free_reads_untouched();
    let failed = || tally.writes().filter(|op| !op.is_done());
    let is_own = |way| matches!(way, Way::Transaction | Way::HttpTx);
    // No restart takes as long as `failover_timeout`. A statement that was under way is sent again,
    // since the server says that it ended it; of a `COMMIT` that proves nothing.
    let untold = |op: &&Op| {
        let unknown = op.way == Way::Closure && op.kind() == "CommitUnknown";
        unknown
            && ended.iter().any(|(before, stopped)| op.started < *stopped && op.ended() > *before)
    };
    let sent_again = || failed().filter(|op| !is_own(op.way));
    println!("{} commits whose end is not known", sent_again().filter(untold).count());
    assert!(sent_again().count() <= 1, "{:#?}", sent_again().collect::<Vec<_>>());
    assert_none("writes", sent_again().filter(|op| !untold(op)));
    // The server ends a transaction in the middle, and only its author can run it again: one for
    // each such client, at the moment when the server stops.
    let of_clients = [Way::Transaction, Way::HttpTx];
    for way in of_clients {
        let cut: Vec<_> = failed().filter(|op| op.way == way).collect();
        println!("{way:?}: {} cut in the middle", cut.len());
        assert!(cut.len() <= 1, "{cut:#?}");
    }
    let (_, stopped) = *ended.last().unwrap();
    assert_none("transactions that began later", failed().filter(|op| op.started > stopped));
    tally.assert_ledger(rig.cluster.primary()).await;
    rig.stop().await;
}
