//! A request to cancel never reaches the statement after the one it was meant for.

use std::collections::BTreeSet;
use std::time::Duration;

use flautino::Handle;
use flautino_lab::{Lab, pid};

/// May take longer than the client's patience, or not.
const ABANDONED: &str = "SELECT pg_sleep(0.002)";
/// Runs for long enough to be hit.
const NEXT: &str = "SELECT $1::int8, pg_backend_pid() FROM pg_sleep(0.003)";

/// Answers the processes that served the statements in between.
async fn abandon(db: &Handle, times: i64) -> BTreeSet<i32> {
    let mut served_by = BTreeSet::new();
    for number in 0..times {
        let patience = Duration::from_micros(fastrand::u64(0..=5000));
        let abandoned = sqlx::query(ABANDONED).execute(db);
        if let Ok(in_time) = tokio::time::timeout(patience, abandoned).await {
            in_time.unwrap();
        }
        let next = sqlx::query_as::<_, (i64, i32)>(NEXT).bind(number).fetch_one(db).await;
        let (answer, pid) = next.unwrap_or_else(|error| panic!("{patience:?}: {error}"));
        assert_eq!(answer, number, "{patience:?}");
        served_by.insert(pid);
    }
    served_by
}

#[tokio::test]
async fn two_hundred_statements_dropped_at_some_moment_and_the_next_is_never_hit() {
    let lab = Lab::named("late").behind_proxy().one_connection().start().await;
    let mut served_by = abandon(&lab.db, 200).await;
    served_by.insert(pid(&lab.db).await);
    // On a machine that stands still for seconds, one may have been given up.
    assert!(served_by.len() <= 2, "{} sessions", served_by.len());
    lab.engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_with_several_threads() {
    let lab = Lab::named("threads").behind_proxy().one_connection().start().await;
    let served_by = abandon(&lab.db, 200).await;
    assert!(served_by.len() <= 2, "{} sessions", served_by.len());
    lab.engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_with_several_sessions_that_abandon_at_the_same_time() {
    let lab = Lab::named("several").behind_proxy().connections(4).start().await;
    let askers = (0..4).map(|_| {
        let db = lab.db.clone();
        tokio::spawn(async move { abandon(&db, 100).await })
    });
    let askers: Vec<_> = askers.collect();
    let mut served_by = BTreeSet::new();
    for asker in askers {
        served_by.extend(asker.await.unwrap());
    }
    assert!(served_by.len() <= 6, "{} sessions", served_by.len());
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_slow_way_to_the_server_does_not_make_it_late() {
    let lab = Lab::named("slow").behind_proxy().one_connection().start().await;
    lab.proxy().slow(Duration::from_millis(3));
    let served_by = abandon(&lab.db, 50).await;
    assert!(served_by.len() <= 2, "{} sessions", served_by.len());
    lab.engine.close().await;
}
