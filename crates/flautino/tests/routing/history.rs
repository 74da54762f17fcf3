//! What happened lately, as the status tells it.

use flautino::{EngineStatus, EventKind};
use flautino_lab::{Lab, wait_until};

/// Whether such an event is told, whose text has this part.
fn tells(status: &EngineStatus, kind: EventKind, node: &str, part: &str) -> bool {
    status
        .events
        .iter()
        .any(|event| event.kind == kind && event.node == node && event.text.contains(part))
}

#[tokio::test]
async fn roles_faults_and_returns_are_told_in_their_order() {
    let lab = Lab::named("history").replicas(2).start().await;
    let told = async |kind, node: &str, part: &str| {
        wait_until(&format!("{kind:?} of {node}"), async || {
            tells(&lab.engine.status(), kind, node, part)
        })
        .await;
    };
    told(EventKind::Primary, "main", "takes the writes").await;
    told(EventKind::Up, "read_replica_1", "replica").await;

    lab.cluster.replica(0).pause_replay().await.unwrap();
    // Paused with nothing to replay is as good as any.
    lab.primary().execute("CREATE TABLE behind (a int)").await.unwrap();
    told(EventKind::Excluded, "read_replica_1", "paused").await;
    lab.cluster.replica(0).resume_replay().await.unwrap();
    told(EventKind::Readmitted, "read_replica_1", "nothing").await;

    lab.primary().kill().await.unwrap();
    told(EventKind::Down, "main", "").await;
    lab.cluster.replica(1).promote().await.unwrap();
    told(EventKind::Primary, "read_replica_2", "takes the writes").await;

    let events = lab.engine.status().events;
    assert!(events.is_sorted_by(|one, other| one.number < other.number && one.at <= other.at));
    let json = serde_json::to_value(lab.engine.status()).unwrap();
    let last = json["events"].as_array().unwrap().last().unwrap();
    assert!(last["at_ms"].as_u64().unwrap() > 1_700_000_000_000, "{last}");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_statement_that_is_run_again_is_told_without_its_values() {
    // The monitor does not notice by itself that the replica is gone.
    let lab = Lab::named("rescue").replicas(1).frozen().start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    lab.cluster.replica(0).kill().await.unwrap();
    for _ in 0..20 {
        let answer: String =
            sqlx::query_scalar("SELECT 'a secret'").fetch_one(&lab.db).await.unwrap();
        assert_eq!(answer, "a secret");
    }
    let status = lab.engine.status();
    assert!(tells(&status, EventKind::Rescued, "read_replica_1", "is run again"), "{status:#?}");
    assert!(!format!("{status:?}").contains("secret"), "{status:#?}");
    lab.engine.close().await;
}
