//! Several calls at once, and calls beside `open` and `close`.

use std::time::{Duration, Instant};

use flautino_lab::{cluster, reader, run, tasks, until_served_by, wait_until};

use crate::common::{
    MAIN, Nodes, eager, hasty, is_closed, names, open_with, set, these, unopened, until_no_sessions,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_leave_the_nodes_of_one_of_them() {
    let cluster = cluster(3).await;
    let engine = open_with(&cluster, "calls", &[], hasty).await;
    let sets = [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2], &[]];
    for _ in 0..5 {
        let calls: Vec<_> = sets
            .iter()
            .map(|replicas| {
                let (engine, nodes) = (engine.clone(), these(&cluster, "calls", replicas));
                tokio::spawn(async move { set(&engine, nodes).await })
            })
            .collect();
        let (mut came, mut went) = (0, 0);
        for call in calls {
            let report = call.await.unwrap();
            came += report.added.len();
            went += report.removed.len();
        }
        let left = names(&engine);
        let is_one = sets.iter().any(|replicas| {
            let wanted = these(&cluster, "calls", replicas);
            left.iter().skip(1).eq(wanted.keys())
        });
        assert!(is_one, "{left:?}");
        assert_eq!(came - went, left.len() - 1, "the reports do not add up");
        set(&engine, Nodes::new()).await;
    }
    set(&engine, these(&cluster, "calls", &[0, 1, 2])).await;
    until_served_by(&engine, &["r1", "r2", "r3"]).await;
    engine.close().await;
    for server in cluster.nodes() {
        until_no_sessions(server, "calls").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_close_it_leaves_a_closed_engine_and_nothing_behind() {
    let cluster = cluster(2).await;
    let engine = unopened(&cluster, "closing", &[0], hasty);
    for round in 0..12 {
        engine.open().await.unwrap();
        let nodes = these(&cluster, "closing", [&[0, 1][..], &[1], &[]][round % 3]);
        let setting = {
            let (engine, nodes) = (engine.clone(), nodes.clone());
            tokio::spawn(async move { set(&engine, nodes).await })
        };
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        let started = Instant::now();
        let report = engine.close().await;
        assert!(report.was_open, "{report:?}");
        assert!(started.elapsed() < Duration::from_secs(8), "{report:?}");
        setting.await.unwrap();
        assert!(!engine.status().open);
        assert!(names(&engine).iter().skip(1).eq(nodes.keys()), "{:?}", names(&engine));
        assert!(run(&engine.handle(), "SELECT 1").await.is_err_and(|error| is_closed(&error)));
        for server in cluster.nodes() {
            until_no_sessions(server, "closing").await;
        }
        set(&engine, these(&cluster, "closing", &[0])).await;
    }
}

#[tokio::test]
async fn beside_close_it_costs_close_no_time() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "quick", &[0], hasty).await;
    until_served_by(&engine, &["r1"]).await;
    let plain = engine.close().await.elapsed;
    let mut best = Duration::MAX;
    // The best of three, so that a busy machine is no excuse.
    for _ in 0..3 {
        engine.open().await.unwrap();
        // The call waits for `close`, which has its turn first, and `close` must not wait for it: it
        // would be a second.
        let closing = {
            let engine = engine.clone();
            tokio::spawn(async move { engine.close().await })
        };
        let report = set(&engine, Nodes::new()).await;
        assert_eq!(report.removed, ["r1"]);
        best = best.min(closing.await.unwrap().elapsed);
        set(&engine, these(&cluster, "quick", &[0])).await;
    }
    assert!(best < plain + Duration::from_millis(800), "{best:?}, and {plain:?} alone");
}

#[tokio::test]
async fn a_node_that_drains_when_the_engine_closes_is_closed_with_it() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "drains", &[0], eager).await;
    let before = tasks();
    let lease = engine.handle().node("r1").unwrap().acquire().await.unwrap();
    let leaving = {
        let engine = engine.clone();
        tokio::spawn(async move { set(&engine, Nodes::new()).await })
    };
    wait_until("it is no node any more", async || names(&engine) == [MAIN]).await;
    let report = engine.close_within(Duration::from_millis(200)).await;
    assert!(report.elapsed < Duration::from_secs(5), "{report:?}");
    assert_eq!(report.still_held, 1, "{report:?}");
    drop(lease);
    leaving.await.unwrap();
    until_no_sessions(cluster.replica(0), "drains").await;
    wait_until("its tasks are gone", async || tasks() < before).await;
}

#[tokio::test]
async fn while_the_engine_drains_nodes_may_still_change() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "soon", &[0], hasty).await;
    engine.start_draining();
    set(&engine, these(&cluster, "soon", &[1])).await;
    until_served_by(&engine, &["r2"]).await;
    assert!(!engine.is_ready());
    assert_ne!(reader(&engine).await.unwrap(), "r1");
    engine.close().await;
    for server in cluster.nodes() {
        until_no_sessions(server, "soon").await;
    }
}
