//! A replica that is rebuilt from an older backup under its old name and port goes backwards.

use std::path::Path;
use std::process::Command;

use flautino_cluster::{Cluster, Node};
use flautino_lab::wait_until;

use crate::common::*;

/// A copy of a folder, owners and all.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// A cluster whose replica can be set back to a moment before a row was there.
struct Past {
    cluster: Cluster,
    backup: tempfile::TempDir,
}

impl Past {
    async fn new() -> Self {
        let past =
            Self { cluster: cluster_with_table(1).await, backup: tempfile::tempdir().unwrap() };
        let replica = past.replica();
        // The copy receives nothing, so that it stays as it is.
        cut_off(replica).await;
        replica.stop().await.unwrap();
        copy(&replica.data_dir(), &past.backup.path().join("data"));
        replica.start().await.unwrap();
        reconnect(replica).await;
        replica.wait_until_streaming().await.unwrap();
        past
    }

    fn replica(&self) -> &Node {
        self.cluster.replica(0)
    }

    async fn restore(&self) {
        let replica = self.replica();
        replica.stop().await.unwrap();
        copy(&self.backup.path().join("data"), &replica.data_dir());
        replica.start().await.unwrap();
        assert_eq!(flautino_lab::ask::<i64>(replica, COUNT).await, 0, "it went backwards");
    }
}

#[tokio::test]
async fn what_was_known_of_it_is_dropped_so_that_token_holders_never_read_its_past() {
    let past = Past::new().await;
    let engine = engine_with(&past.cluster, "rebuilt", |_| {}).await;
    let db = engine.handle();
    insert(&db, 1).await;
    let token = db.token().await.unwrap();
    wait_until("the replica serves the token", async || {
        read(&engine, &with_token(&engine, token), COUNT).await.reason == "floor_met"
    })
    .await;
    past.restore().await;
    let probes = || engine.status().nodes[1].probes;
    let before = probes();
    wait_until("it was probed some times", async || {
        for db in [with_token(&engine, token), db.clone()] {
            let read = read(&engine, &db, COUNT).await;
            assert_eq!((read.value, &*read.node), (1, "main"), "{read:?}");
        }
        probes() >= before + 6
    })
    .await;
    // Once it has caught up it serves again.
    reconnect(past.replica()).await;
    wait_until("the replica serves the token again", async || {
        let read = read(&engine, &with_token(&engine, token), COUNT).await;
        assert_eq!(read.value, 1, "{read:?}");
        read.reason == "floor_met"
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn that_holds_before_the_next_probe_too() {
    let past = Past::new().await;
    let engine = frozen_engine(&past.cluster, "unprobed").await;
    let db = engine.handle();
    insert(&db, 1).await;
    let token = db.token().await.unwrap();
    catch_up_with_tokens(&past.cluster).await;
    engine.close().await;
    // At this open the replica has the row.
    engine.open().await.unwrap();
    let met = read(&engine, &with_token(&engine, token), COUNT).await;
    assert_eq!(met.reason, "floor_met", "{met:?}");
    past.restore().await;
    for _ in 0..20 {
        let read = read(&engine, &with_token(&engine, token), COUNT).await;
        assert_eq!(read.value, 1, "{read:?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_session_that_read_from_it_does_not_go_back_with_it() {
    let past = Past::new().await;
    past.cluster.primary().execute("INSERT INTO t VALUES (1)").await.unwrap();
    past.replica().catch_up_with(past.cluster.primary()).await.unwrap();
    let engine = frozen_engine(&past.cluster, "went_back").await;
    let db = session(&engine);
    let first = read(&engine, &db, COUNT).await;
    assert_eq!((first.value, &*first.node), (1, "read_replica_1"), "{first:?}");
    past.restore().await;
    for _ in 0..5 {
        let next = read(&engine, &db, COUNT).await;
        assert_eq!(next.value, 1, "{next:?}");
    }
    engine.close().await;
}
