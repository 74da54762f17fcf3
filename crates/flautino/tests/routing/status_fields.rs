//! `status.json` as the engine makes it: fields that make sense, and null for what is not known.

use flautino::Engine;
use flautino_lab::{ask, catch_up, cluster, config, reader, run, wait_until};
use serde_json::Value;

use crate::common::{REPLICAS, cascade, open_default};

fn json(engine: &Engine) -> Value {
    serde_json::to_value(engine.status()).unwrap()
}

fn node<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap()
}

/// A position as a number, for comparing.
fn position(node: &Value) -> u64 {
    let text = node["position"].as_str().unwrap();
    let (high, low) = text.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

#[tokio::test]
async fn the_fields_of_the_primary_and_its_replicas_make_sense() {
    let cluster = cascade().await;
    let engine = open_default(&cluster, "fields").await;
    run(&engine.handle(), "CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    for _ in 0..30 {
        reader(&engine).await.unwrap();
    }
    // The server itself logs something now and then.
    let mut status = Value::Null;
    wait_until("all are probed again", async || {
        status = json(&engine);
        REPLICAS.iter().all(|name| node(&status, name)["lag_bytes"] == 0)
    })
    .await;
    assert_eq!((&status["open"], &status["primary"]), (&true.into(), &"main".into()));
    assert_eq!(status["read_your_writes"], "positions");
    for (index, cluster_node) in cluster.nodes().enumerate() {
        let node = &status["nodes"][index];
        assert_eq!(node["role"], if index == 0 { "primary" } else { "replica" }, "{node}");
        assert_eq!((&node["health"], &node["reason"]), (&"up".into(), &Value::Null));
        assert_eq!(
            (&node["host"], &node["port"]),
            (&"127.0.0.1".into(), &cluster_node.port().into())
        );
        assert_eq!(node["timeline"], 1, "{node}");
        assert_eq!((&node["lag_bytes"], &node["lag_ms"]), (&0.into(), &0.into()), "{node}");
        let latency = node["latency_us"].as_u64().unwrap();
        assert!((1..2_000_000).contains(&latency), "{node}");
        assert!(node["probes"].as_u64().unwrap() > 0);
        assert_eq!(node["pool"]["max"], 10);
        let there: i64 = ask(
            cluster_node,
            "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                ELSE pg_current_wal_insert_lsn() END - '0/0')::int8",
        )
        .await;
        assert!(position(node) <= u64::try_from(there).unwrap(), "{node}");
        assert!(position(node) > 0x0100_0000, "{node}");
    }
    engine.close().await;
}

#[tokio::test]
async fn lag_counts_the_bytes_and_the_time_that_a_replica_is_behind() {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a text)").await.unwrap();
    catch_up(&cluster).await;
    let engine = open_default(&cluster, "bytes").await;
    cluster.replica(1).pause_replay().await.unwrap();
    let much = "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
    cluster.primary().execute(much).await.unwrap();
    let mut grown = Vec::new();
    wait_until("it grows", async || {
        let status = json(&engine);
        let behind = node(&status, REPLICAS[1]);
        let bytes = behind["lag_bytes"].as_u64().unwrap();
        let lag = behind["lag_ms"].as_u64().unwrap();
        if bytes > 1_000_000 {
            grown.push(lag);
        }
        lag > 2000
    })
    .await;
    assert!(grown.is_sorted(), "{grown:?}");
    let status = json(&engine);
    let behind = node(&status, REPLICAS[1]);
    let difference = position(&status["nodes"][0]) - position(behind);
    assert!(behind["lag_bytes"].as_u64().unwrap() <= difference, "{status:#}");
    assert!(behind["lag_bytes"].as_u64().unwrap() > 1_000_000, "{status:#}");
    assert!(behind["reason"].as_str().unwrap().contains("paused"));
    engine.close().await;
}

#[tokio::test]
async fn what_is_not_known_is_null_and_not_zero() {
    let cluster = cluster(1).await;
    let unopened = Engine::new(config(&cluster, "unknown")).unwrap();
    for node in json(&unopened)["nodes"].as_array().unwrap() {
        for key in ["timeline", "position", "lag_bytes", "lag_ms", "pool"] {
            assert_eq!(node[key], Value::Null, "{key}: {node}");
        }
        assert_eq!((&node["role"], &node["health"]), (&"unknown".into(), &"unknown".into()));
    }
    let engine = open_default(&cluster, "known").await;
    cluster.replica(0).kill().await.unwrap();
    wait_until("it is down", async || json(&engine)["nodes"][1]["health"] == "down").await;
    let status = json(&engine);
    let down = &status["nodes"][1];
    for key in ["timeline", "position", "lag_bytes", "lag_ms"] {
        assert_eq!(down[key], Value::Null, "{key}: {down}");
    }
    assert!(down["reason"].as_str().is_some_and(|reason| !reason.is_empty()));

    // Of a replica without a primary to compare it with, nobody knows how far behind it is.
    cluster.replica(0).start().await.unwrap();
    wait_until("it is up", async || json(&engine)["nodes"][1]["health"] == "up").await;
    cluster.primary().kill().await.unwrap();
    wait_until("there is no primary", async || json(&engine)["primary"].is_null()).await;
    let status = json(&engine);
    assert_ne!(status["nodes"][1]["lag_ms"], 0, "{status:#}");
    for key in ["lag_bytes", "lag_ms"] {
        assert_eq!(status["nodes"][0][key], Value::Null, "{status:#}");
    }
    engine.close().await;
}
