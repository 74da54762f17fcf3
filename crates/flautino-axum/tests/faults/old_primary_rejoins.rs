//! After a failover the old primary comes back as a replica: it joins by itself.

use flautino::Role;
use flautino_lab::wait_until;

use crate::common::{MAIN, REPLICAS};
use crate::load::{Load, assert_none, failed_over};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_joins_by_itself_and_nobody_notices() {
    let (rig, before) = failed_over("rejoins").await;

    let load = Load::of(&rig.engine, &rig.app.url, 1_000_000);
    load.a_while().await;
    let sent = rig.status(MAIN).statements;
    let (old, new) = (rig.cluster.primary(), rig.cluster.replica(0));
    println!("it was {:?}", old.rejoin(new).await.unwrap());
    rig.until_serves(MAIN).await;
    wait_until("it serves reads", async || rig.status(MAIN).statements > sent + 20).await;
    assert_eq!(rig.status(MAIN).role, Role::Replica);
    assert_eq!(rig.engine.status().primary.as_deref(), Some(REPLICAS[0]));
    load.a_while().await;
    let tally = load.stop().await;
    tally.assert_no_read_failed();
    tally.assert_writes_untouched();
    let strayed = tally.writes().filter(|op| op.node.as_deref() == Some(MAIN));
    assert_none("written to a replica", strayed);
    assert!(tally.reads().any(|op| op.node.as_deref() == Some(MAIN)), "it was not read from");
    tally.and(before).assert_ledger(new).await;
    rig.stop().await;
}
