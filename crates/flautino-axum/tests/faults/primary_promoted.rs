//! The primary is killed and a replica promoted: no read fails, writes go on at the new primary, none
//! is lost that it has, and none is done twice.

use crate::common::{DOWN_WITHIN, PROBE_INTERVAL, REPLICAS, Rig, SLACK};
use crate::load::{Load, Op, Way, assert_none};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_fails_and_writes_go_on_at_the_new_primary_in_time() {
    let rig = Rig::start("promoted", 2).await;
    rig.lose_nothing().await;
    let load = Load::start(&rig);
    load.a_while().await;
    let failover = rig.fail_over(&load).await;
    load.a_while().await;
    assert_eq!(rig.engine.status().primary.as_deref(), Some(REPLICAS[0]));
    rig.follow(&failover).await;
    load.a_while().await;
    let tally = load.stop().await;

    tally.assert_no_read_failed();
    tally.assert_free_reads_untouched();
    let failed = || tally.writes().filter(|op| !op.is_done());
    assert_none("writes that began after it", failed().filter(|op| op.started > failover.dead));
    // Run again as long as COMMIT was not sent.
    let closures = failed().filter(|op| op.way == Way::Closure && op.kind() != "CommitUnknown");
    assert_none("closures that were not retried", closures);

    let by = failover.accepts + 2 * PROBE_INTERVAL;
    let waited = || {
        let done = tally.writes().filter(|op| op.is_done());
        done.filter(|op| op.started < failover.accepts && op.ended() > failover.accepts)
    };
    assert!(waited().count() > 0, "no write waited, so this test tests nothing");
    let last = waited().map(|op| op.ended() - failover.accepts).max();
    println!("{} writes waited, the last until {last:?} after it accepts", waited().count());
    let is_late = |moment| moment - tally.pulse.stalled(failover.accepts, moment) > by + SLACK;
    assert_none("writes that went on late", waited().filter(|op| is_late(op.ended())));
    let then = tally.writes().filter(|op| op.is_done() && op.started > failover.accepts);
    let first = then.map(Op::ended).min().unwrap();
    assert!(!is_late(first), "the first write began {:?} later", first - failover.accepts);
    let later = tally.writes().filter(|op| op.started > by);
    assert_none("slow writes later", later.filter(|op| tally.was_slow(op, DOWN_WITHIN)));
    tally.assert_ledger(rig.cluster.replica(0)).await;
    rig.stop().await;
}
