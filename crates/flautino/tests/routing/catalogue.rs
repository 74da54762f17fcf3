//! The catalogue of functions, where it cannot be read at first.

use flautino_lab::{catch_up, cluster, config, node_of, run, wait_until};
use sqlx::{Connection, Executor};

use crate::common::{MAIN, REPLICAS, is_replica, open_reading};

#[tokio::test]
async fn what_could_not_be_read_is_asked_for_again_soon() {
    let cluster = cluster(1).await;
    let primary = cluster.primary();
    let function = "CREATE FUNCTION one() RETURNS int LANGUAGE sql IMMUTABLE RETURN 1";
    primary.execute(function).await.unwrap();
    primary.execute("ALTER DATABASE postgres SET lock_timeout = '100ms'").await.unwrap();
    catch_up(&cluster).await;
    let mut holder = primary.connect().await.unwrap();
    holder.execute("BEGIN; LOCK TABLE pg_policy IN ACCESS EXCLUSIVE MODE").await.unwrap();

    let engine = open_reading(config(&cluster, "catalogue"), &REPLICAS[..1]).await;
    let reader = async || {
        let db = engine.handle();
        run(&db, "SELECT one()").await.unwrap();
        node_of(&db)
    };
    // It may write, for all that is known.
    assert_eq!(reader().await, MAIN);
    holder.close().await.unwrap();
    wait_until("the function is known", async || is_replica(&reader().await)).await;
    engine.close().await;
}
