//! Where writes would go there is a standby, and nobody is the primary: reads go on from it.

use std::time::Duration;

use flautino::{Consistency, Engine, EngineConfig, Error, Handle};
use flautino_lab::{cluster, config, open, wait_until};

use crate::common::{MAIN, REPLICAS};

fn impatient(mut config: EngineConfig) -> EngineConfig {
    config.routing.failover_timeout = Duration::from_secs(1);
    config
}

/// Where a read was served.
async fn reader(db: &Handle) -> String {
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(db).await.unwrap();
    assert_eq!(one, 1);
    db.served_by().unwrap().to_string()
}

async fn assert_writes_wait_in_vain(engine: &Engine) {
    let refused =
        sqlx::query("CREATE TABLE t (a int)").execute(&engine.handle()).await.unwrap_err();
    assert!(matches!(Error::of(&refused), Some(Error::NoPrimary { .. })), "{refused}");
}

#[tokio::test]
async fn an_app_that_starts_now_reads_from_its_main_node_which_is_a_standby() {
    let cluster = cluster(1).await;
    let mut config = impatient(config(&cluster, "starts"));
    config.extra_nodes.get_mut(REPLICAS[0]).unwrap().url = Some(cluster.primary().url());
    config.main.url = Some(cluster.replica(0).url());
    // Where a session's read has been is not learnt by a probe.
    config.routing.probe_interval = Duration::from_secs(3600);
    cluster.primary().kill().await.unwrap();
    let engine = open(config).await;
    for level in [Consistency::Eventual, Consistency::ReadYourWrites, Consistency::Session] {
        let db = engine.handle().with_consistency(level);
        for _ in 0..3 {
            assert_eq!(reader(&db).await, MAIN, "{level:?}");
        }
        assert_eq!(reader(&db.replica()).await, MAIN, "{level:?}");
    }
    assert_writes_wait_in_vain(&engine).await;
    engine.close().await;
}

#[tokio::test]
async fn reads_go_on_when_the_primary_comes_back_as_a_standby_and_nobody_is_promoted() {
    let cluster = cluster(1).await;
    let engine = open(impatient(config(&cluster, "demoted"))).await;
    let old = cluster.primary();
    old.stop().await.unwrap();
    std::fs::write(old.data_dir().join("standby.signal"), "").unwrap();
    old.start().await.unwrap();
    assert!(old.is_in_recovery().await.unwrap());
    wait_until("it serves a session, which then goes on", async || {
        let db = engine.handle().with_consistency(Consistency::Session);
        let node = reader(&db).await;
        reader(&db).await;
        node == MAIN
    })
    .await;
    // And it is the only one.
    cluster.replica(0).kill().await.unwrap();
    for _ in 0..10 {
        assert_eq!(reader(&engine.handle()).await, MAIN);
    }
    assert_writes_wait_in_vain(&engine).await;
    engine.close().await;
}
