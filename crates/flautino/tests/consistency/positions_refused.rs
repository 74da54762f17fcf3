//! Servers that refuse to tell their positions as Amazon Aurora does: the writer with 55000 unless logical
//! replication is on, a reader with 0A000. Functions of these names stand before PostgreSQL's own here.

use flautino::ReadYourWrites;
use flautino_lab::{Lab, settings};

use crate::common::*;

const AS_AURORA: &str = "
    CREATE SCHEMA aurora;
    GRANT USAGE ON SCHEMA aurora TO public;
    CREATE FUNCTION aurora.pg_current_wal_insert_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN
        RAISE 'wal_level must be set to ''logical''' USING ERRCODE = 'object_not_in_prerequisite_state';
    END $$;
    CREATE FUNCTION aurora.pg_last_wal_replay_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN
        RAISE 'Function is currently not supported for Aurora' USING ERRCODE = 'feature_not_supported';
    END $$";

#[tokio::test]
async fn they_are_up_and_replicas_serve_whoever_wrote_nothing() {
    let lab = Lab::named("app")
        .replicas(1)
        .table("t (a int)")
        .sql(AS_AURORA)
        .patient_probes()
        .config(|config| {
            settings::lively(config);
            for node in std::iter::once(&mut config.main).chain(config.extra_nodes.values_mut()) {
                let path = "aurora,pg_catalog,public".to_owned();
                node.options.insert("search_path".to_owned(), path);
            }
        })
        .start()
        .await;
    lab.until_served_by(&["read_replica_1"]).await;
    let status = lab.engine.status();
    assert_eq!(status.primary.as_deref(), Some("main"));
    assert_eq!(status.read_your_writes, Some(ReadYourWrites::Window));
    assert!(status.nodes.iter().all(|node| node.position.is_none()), "{status:?}");

    let db = lab.engine.handle();
    insert(&db, 1).await;
    let read = read(&lab.engine, &db, COUNT).await;
    assert_eq!((read.value, &*read.node, &*read.reason), (1, "main", "own_write"));
    lab.engine.close().await;
}
