//! Statements that are kept prepared, and whose tables change then.

use flautino::Access;
use flautino_lab::{catch_up, cluster, config, node_of, run};

use crate::common::{MAIN, cascade, is_replica, open_default, open_reading};

const READ: &str = "SELECT * FROM t";
const WRITE: &str = "INSERT INTO t (a) VALUES (1) RETURNING *";

#[tokio::test]
async fn a_read_runs_on_and_stays_a_read() {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    catch_up(&cluster).await;
    let engine = open_default(&cluster, "migrations").await;
    let read = async || {
        let db = engine.handle();
        run(&db, READ).await.unwrap();
        let node = node_of(&db);
        assert!(is_replica(&node), "it ran on {node}; {:#?}", engine.status());
    };
    for column in ["b", "c"] {
        for _ in 0..40 {
            read().await;
            run(&engine.handle(), WRITE).await.unwrap();
        }
        let sql = format!("ALTER TABLE t ADD COLUMN {column} int");
        cluster.primary().execute(&sql).await.unwrap();
        catch_up(&cluster).await;
    }
    for _ in 0..40 {
        read().await;
        run(&engine.handle(), WRITE).await.unwrap();
    }
    assert_eq!(engine.access(READ), Access::Read);
    engine.close().await;
}

#[tokio::test]
async fn a_transaction_fails_once_and_its_connection_is_thrown_away() {
    let cluster = cluster(0).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let mut config = config(&cluster, "once");
    config.pool.max_connections = 1;
    let engine = open_reading(config, &[MAIN]).await;
    let db = engine.handle();
    let read = async || {
        let mut tx = db.begin().await?;
        sqlx::query(READ).execute(&mut tx).await?;
        tx.commit().await
    };
    read().await.unwrap();
    cluster.primary().execute("ALTER TABLE t ADD COLUMN b int").await.unwrap();
    let error = read().await.unwrap_err();
    assert!(error.to_string().contains("cached plan"), "{error}");
    read().await.unwrap();
    engine.close().await;
}
