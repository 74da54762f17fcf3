//! `close` while a change of the nodes waits for answers: it does not wait with it.

use std::time::{Duration, Instant};

use flautino::{Access, Engine};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{ask, cluster, until_served_by, wait_until};

use crate::common::{
    FOUND, MAIN, Registry, Says, at, discovering, eager, names, one_port, open_with, these,
    until_no_sessions,
};

/// What `close` may take beyond its drain time.
const GRACE: Duration = Duration::from_secs(5);

/// The catalogue cannot be read while the answer lives.
async fn locked_catalogue(primary: &Node) -> sqlx::PgConnection {
    let mut holder = primary.connect().await.unwrap();
    let sql = "BEGIN; LOCK TABLE pg_policy IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(sql).execute(&mut holder).await.unwrap();
    holder
}

/// Waits until the change waits for the catalogue, hangs the primary, and closes the engine.
async fn close_meanwhile(cluster: &Cluster, engine: &Engine) {
    let primary = cluster.primary();
    wait_until("the catalogue is being read", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE wait_event_type = 'Lock' \
                       AND application_name LIKE '%flautino catalogue%'";
        ask::<i64>(primary, waiting).await > 0
    })
    .await;
    primary.hang().await.unwrap();
    let started = Instant::now();
    let report = engine.close_within(Duration::ZERO).await;
    let took = started.elapsed();
    println!("it was closed after {took:?}");
    primary.resume().await.unwrap();
    assert!(report.was_open && took < GRACE, "it took {took:?}: {report:?}");
}

/// It is as it would be had nothing happened.
async fn opens_again(cluster: &Cluster, engine: &Engine, name: &str, replica: &str) {
    for server in cluster.nodes() {
        until_no_sessions(server, name).await;
    }
    engine.open().await.unwrap();
    assert_eq!(names(engine), [MAIN, replica]);
    assert_eq!(engine.access("SELECT lower('A')"), Access::Read);
    until_served_by(engine, &[replica]).await;
    engine.close().await;
}

#[tokio::test]
async fn the_first_replica_comes_and_the_primary_hangs() {
    let cluster = cluster(1).await;
    let engine = open_with(&cluster, "hung", &[], eager).await;
    let holder = locked_catalogue(cluster.primary()).await;
    let nodes = these(&cluster, "hung", &[0]);
    let setting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.set_nodes(nodes).await }
    });
    close_meanwhile(&cluster, &engine).await;
    assert_eq!(setting.await.unwrap().unwrap().added, ["r1"]);
    drop(holder);
    opens_again(&cluster, &engine, "hung", "r1").await;
}

#[tokio::test]
async fn the_first_replica_is_found_and_the_primary_hangs() {
    let cluster = cluster(1).await;
    let servers = one_port(&cluster).await;
    let registry = Registry::new(Says::Fails);
    let engine = discovering(&servers, "found", &registry, |_| ());
    engine.open().await.unwrap();
    let holder = locked_catalogue(cluster.primary()).await;
    registry.say(at(&servers, &[1]));
    close_meanwhile(&cluster, &engine).await;
    drop(holder);
    opens_again(&cluster, &engine, "found", FOUND[0]).await;
}
