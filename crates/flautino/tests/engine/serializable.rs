//! A database, or a role, whose default isolation level is one that no standby accepts.

use flautino::{EngineConfig, Handle, IsolationLevel, Role, TransactionOptions};
use flautino_lab::{Lab, LabBuilder, node_of, status_of, wait_until};

const REPLICA: &str = "read_replica_1";

async fn level(db: &Handle) -> String {
    sqlx::query_scalar("SELECT current_setting('transaction_isolation')")
        .fetch_one(db)
        .await
        .unwrap()
}

fn by_role(name: &str) -> LabBuilder<'_> {
    let role = "CREATE ROLE strict LOGIN SUPERUSER; \
                ALTER ROLE strict SET default_transaction_isolation = 'serializable'";
    let log_in = |config: &mut EngineConfig| flautino_lab::settings::log_in_as(config, "strict");
    Lab::named(name).replicas(1).sql(role).table("t (a int)").config(log_in)
}

fn by_database(name: &str) -> LabBuilder<'_> {
    let change = |config: &mut EngineConfig| {
        for node in std::iter::once(&mut config.main).chain(config.extra_nodes.values_mut()) {
            let url = node.url.take().unwrap();
            let (server, rest) = url.rsplit_once("/postgres").unwrap();
            node.url = Some(format!("{server}/strict{rest}"));
        }
    };
    Lab::named(name)
        .replicas(1)
        .sql("CREATE DATABASE strict")
        .sql("ALTER DATABASE strict SET default_transaction_isolation = 'serializable'")
        .config(change)
}

fn by_option(name: &str) -> LabBuilder<'_> {
    let change = |config: &mut EngineConfig| {
        for node in std::iter::once(&mut config.main).chain(config.extra_nodes.values_mut()) {
            let setting = ("default_transaction_isolation".to_owned(), "serializable".to_owned());
            node.options.extend([setting]);
        }
    };
    Lab::named(name).replicas(1).config(change)
}

#[tokio::test]
async fn its_replicas_are_up_and_read_at_the_next_lower_level() {
    for (name, lab) in [
        ("role", by_role("role")),
        ("database", by_database("database")),
        ("option", by_option("option")),
    ] {
        let Lab { cluster: _cluster, engine, db, .. } = lab.one_connection().start().await;
        flautino_lab::until_served_by(&engine, &[REPLICA]).await;
        let replica = db.node(REPLICA).unwrap();
        for _ in 0..3 {
            assert_eq!(level(&replica).await, "repeatable read", "{name}");
            assert_eq!(level(&db.primary()).await, "serializable", "{name}");
            // The next session is reset.
            for db in [&replica, &db.primary()] {
                let mut lease = db.acquire().await.unwrap();
                sqlx::query("SET work_mem = '9MB'").execute(&mut lease).await.unwrap();
            }
        }
        engine.close().await;
    }
}

#[tokio::test]
async fn a_transaction_that_asks_for_the_highest_level_goes_to_the_primary() {
    let Lab { cluster: _cluster, engine, db, .. } = by_role("explicit").start().await;
    flautino_lab::until_served_by(&engine, &[REPLICA]).await;
    let isolation = Some(IsolationLevel::Serializable);
    let options = TransactionOptions { isolation, read_only: true, ..Default::default() };
    for _ in 0..5 {
        let tx = db.begin_with(options.clone()).await.unwrap();
        assert_eq!(tx.node(), "main");
        tx.commit().await.unwrap();
    }
    let read_only = TransactionOptions { read_only: true, ..Default::default() };
    let mut tx = db.begin_with(read_only).await.unwrap();
    assert_eq!(tx.node(), REPLICA);
    sqlx::query("SELECT count(*) FROM t").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn a_replica_that_is_promoted_has_the_database_s_own_level() {
    let Lab { cluster, engine, .. } = by_role("promoted_strict").always_warm().start().await;
    flautino_lab::until_served_by(&engine, &[REPLICA]).await;
    let replica = engine.handle().node(REPLICA).unwrap();
    assert_eq!(level(&replica).await, "repeatable read");
    cluster.primary().stop_immediate().await.unwrap();
    cluster.replica(0).promote().await.unwrap();
    wait_until("the engine knows", async || status_of(&engine, REPLICA).role == Role::Primary)
        .await;
    assert_eq!(level(&replica).await, "serializable");
    let db = engine.handle();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&db).await.unwrap();
    assert_eq!(node_of(&db), REPLICA);
    engine.close().await;
}

#[tokio::test]
async fn another_default_stays_what_it_is() {
    let lab = Lab::named("others").replicas(1).sql(
        "CREATE ROLE steady LOGIN SUPERUSER; \
              ALTER ROLE steady SET default_transaction_isolation = 'repeatable read'",
    );
    let Lab { cluster: _cluster, engine, db, config, .. } = lab.start().await;
    flautino_lab::until_served_by(&engine, &[REPLICA]).await;
    assert_eq!(level(&db.node(REPLICA).unwrap()).await, "read committed");
    engine.close().await;
    let mut config = config;
    flautino_lab::settings::log_in_as(&mut config, "steady");
    let engine = flautino_lab::open(config).await;
    assert_eq!(level(&engine.handle().node(REPLICA).unwrap()).await, "repeatable read");
    engine.close().await;
}
