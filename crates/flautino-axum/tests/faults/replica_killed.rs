//! A replica is killed: no read fails, and writes do not notice.

use flautino_lab::wait_until;

use crate::common::{REPLICAS, Rig};
use crate::load::Load;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_killed_and_comes_back_costs_no_read_and_writes_do_not_notice() {
    let rig = Rig::start("killed", 2).await;
    let load = Load::start(&rig);
    load.a_while().await;
    let victim = rig.cluster.replica(1);
    for _ in 0..2 {
        let used = rig.status(REPLICAS[1]).statements;
        wait_until("it is used", async || rig.status(REPLICAS[1]).statements > used + 20).await;
        victim.kill().await.unwrap();
        load.a_while().await;
        rig.until_down(REPLICAS[1]).await;
        rig.is_not_chosen(REPLICAS[1], &load).await;
        victim.start().await.unwrap();
        rig.until_serves(REPLICAS[1]).await;
    }
    load.a_while().await;
    let tally = load.stop().await;
    tally.assert_no_read_failed();
    tally.assert_writes_untouched();
    tally.assert_ledger(rig.cluster.primary()).await;
    rig.stop().await;
}
