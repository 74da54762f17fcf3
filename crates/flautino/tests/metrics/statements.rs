//! What is told of statements: how long, where, why, and how they failed.

use flautino_lab::{Lab, until_running};

use crate::page::{Metrics, start, total};

const DURATION: &str = "db_client_operation_duration_seconds_count";
const ENDLESS: &str = "SELECT pg_sleep(600)";
const STATEMENTS: &str = "flautino_statements_total";

#[tokio::test]
async fn statements_are_told_by_node_reason_and_error() {
    let lab = start(Lab::named("statements").replicas(1).table("notes (id int)")).await;
    lab.until_served_by(&["read_replica_1"]).await;
    let main = Metrics::of(&lab.engine, "main");
    let replica = Metrics::of(&lab.engine, "read_replica_1");
    let reads = replica.value(STATEMENTS, "reason=\"no_floor\"").unwrap();
    let answered = replica.value(DURATION, "db_system_name=\"postgresql\"").unwrap();
    assert!(reads >= 1.0 && answered >= 1.0, "{reads} {answered}");
    let port = format!("server_port=\"{}\"", lab.cluster.replica(0).port());
    assert_eq!(replica.value(DURATION, &port), Some(answered));

    let db = lab.engine.handle();
    sqlx::query("SELECT 1 FROM notes").execute(&db).await.unwrap();
    assert_eq!(replica.value(STATEMENTS, "reason=\"no_floor\""), Some(reads + 1.0));
    assert_eq!(replica.value(DURATION, &port), Some(answered + 1.0));
    sqlx::query("INSERT INTO notes VALUES (1)").execute(&db).await.unwrap();
    assert_eq!(main.value(STATEMENTS, "reason=\"write\""), Some(1.0));
    sqlx::query("SELECT 1 / (id - id) FROM notes").execute(&db.primary()).await.unwrap_err();
    assert_eq!(main.value(DURATION, "error_type=\"22012\""), Some(1.0));
    let primary = db.primary();
    let endless =
        tokio::spawn(async move { sqlx::query(ENDLESS).execute(&primary).await.map(drop) });
    until_running(lab.primary(), "statements", ENDLESS).await;
    endless.abort();
    main.until(DURATION, "error_type=\"cancelled\"", |count| count == 1.0).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn what_is_run_again_is_told_where_it_failed_and_where_it_ran() {
    // The monitor does not notice by itself that the replica is gone.
    let lab = start(Lab::named("rerun").replicas(1).frozen()).await;
    lab.until_served_by(&["read_replica_1"]).await;
    let main = Metrics::of(&lab.engine, "main");
    let replica = Metrics::of(&lab.engine, "read_replica_1");
    replica.until("flautino_events_total", "kind=\"rescued\"", |count| count == 0.0).await;
    lab.cluster.replica(0).kill().await.unwrap();
    for _ in 0..20 {
        sqlx::query("SELECT 1").execute(&lab.engine.handle()).await.unwrap();
    }
    assert!(replica.value("flautino_events_total", "kind=\"rescued\"").unwrap() >= 1.0);
    assert!(main.value(STATEMENTS, "reason=\"retried\"").unwrap() >= 1.0);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_counted() {
    let lab = start(Lab::named("unreadable")).await;
    lab.db.observe_unreadable();
    assert_eq!(total("flautino_token_unreadable_total"), Some(1.0));
    lab.engine.close().await;
}
