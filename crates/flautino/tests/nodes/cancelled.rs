//! A call that is dropped: what has begun goes on.

use flautino_lab::{cluster, polled_at_most, reader, tasks, until_served_by, wait_until};

use crate::common::{MAIN, hasty, names, open_with, set, these, until_no_sessions};

#[tokio::test]
async fn dropped_at_any_point_it_is_done_or_was_never_begun() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "dropped", &[0], hasty).await;
    until_served_by(&engine, &["r1"]).await;
    let before = tasks();
    for round in 0..20_usize {
        let (old, new) = [(0, 1), (1, 0)][round % 2];
        let nodes = these(&cluster, "dropped", &[new]);
        let wanted = ["r1", "r2"][new];
        let _ = polled_at_most(1 + round / 4, engine.set_nodes(nodes)).await;
        wait_until("the nodes are as they were set", async || names(&engine) == [MAIN, wanted])
            .await;
        until_served_by(&engine, &[wanted]).await;
        until_no_sessions(cluster.replica(old), "dropped").await;
    }
    wait_until("no task is left over", async || tasks() <= before).await;
    engine.close().await;
}

#[tokio::test]
async fn never_polled_it_changes_nothing() {
    let cluster = cluster(2).await;
    let engine = open_with(&cluster, "unpolled", &[0], hasty).await;
    drop(engine.set_nodes(these(&cluster, "unpolled", &[1])));
    for _ in 0..10 {
        reader(&engine).await.unwrap();
    }
    assert_eq!(names(&engine), [MAIN, "r1"]);
    engine.close().await;
}

#[tokio::test]
async fn dropped_with_the_engine_nothing_is_left_of_either() {
    let cluster = cluster(2).await;
    let before = tasks();
    for polls in 1..6 {
        let engine = open_with(&cluster, "orphan", &[0], hasty).await;
        until_served_by(&engine, &["r1"]).await;
        let _ = polled_at_most(polls, engine.set_nodes(these(&cluster, "orphan", &[0, 1]))).await;
        drop(engine);
        for server in cluster.nodes() {
            until_no_sessions(server, "orphan").await;
        }
    }
    wait_until("no task is left over", async || tasks() <= before).await;
}

#[tokio::test]
async fn a_call_after_a_dropped_one_comes_after_it() {
    let cluster = cluster(3).await;
    let engine = open_with(&cluster, "order", &[0], hasty).await;
    for round in 0..10 {
        let (first, second) = [(1, 2), (2, 1)][round % 2];
        let _ = polled_at_most(1, engine.set_nodes(these(&cluster, "order", &[first]))).await;
        set(&engine, these(&cluster, "order", &[second])).await;
        assert_eq!(names(&engine), [MAIN, ["r1", "r2", "r3"][second]]);
    }
    engine.close().await;
}
