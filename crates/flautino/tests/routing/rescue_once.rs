//! What is never sent again: a write, whatever becomes of it.

use flautino::{Engine, Error, Handle};
use flautino_cluster::{Cluster, Proxy};
use flautino_lab::{ask, cluster, config, node_of, run, sqlstate, until_running, wait_until};
use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;

use crate::common::{MAIN, open_reading};

const SCHEMA: &str = "
    CREATE TABLE calls (id int);
    CREATE FUNCTION call(id int, wait float8) RETURNS int LANGUAGE plpgsql VOLATILE AS
        'BEGIN INSERT INTO calls VALUES (id); PERFORM pg_sleep(wait); RETURN id; END';
    CREATE FUNCTION fail(id int, code text) RETURNS int LANGUAGE plpgsql VOLATILE AS
        'BEGIN INSERT INTO calls VALUES (id);
         RAISE EXCEPTION USING ERRCODE = code, MESSAGE = ''no''; END';
    -- Its traces outlast the rollback.
    CREATE SEQUENCE tried";

async fn start(name: &str) -> (Cluster, Proxy, Engine) {
    let cluster = cluster(1).await;
    cluster.primary().execute(SCHEMA).await.unwrap();
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    let proxy = Proxy::start(cluster.primary().addr()).await.unwrap();
    let mut config = config(&cluster, name);
    config.main.url = Some(proxy.url());
    let engine = open_reading(config, &["read_replica_1"]).await;
    (cluster, proxy, engine)
}

async fn by_stream(db: &Handle, sql: &str) -> Result<(), sqlx::Error> {
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch(db);
    rows.try_collect::<Vec<_>>().await.map(drop)
}

#[tokio::test]
async fn a_write_whose_connection_is_lost_under_way_is_an_error_and_ran_once() {
    let (cluster, proxy, engine) = start("lost").await;
    for (id, streamed) in [(1, false), (2, true)] {
        let sql = format!("SELECT call({id}, 1)");
        let db = engine.handle();
        let write =
            async { if streamed { by_stream(&db, &sql).await } else { run(&db, &sql).await } };
        let reset = async {
            until_running(cluster.primary(), "lost", &sql).await;
            proxy.reset().await;
        };
        let (written, ()) = tokio::join!(write, reset);
        written.unwrap_err();
        assert_eq!(node_of(&db), MAIN);
        // Whether it was done is unknown, but not that it was done twice.
        wait_until("the server is through with it", async || {
            let active = "SELECT count(*) FROM pg_stat_activity \
                WHERE application_name = 'lost' AND state = 'active'";
            ask::<i64>(cluster.primary(), active).await == 0
        })
        .await;
        let calls = format!("SELECT count(*) FROM calls WHERE id = {id}");
        assert!(ask::<i64>(cluster.primary(), &calls).await <= 1);
        wait_until("writes work again", async || {
            run(&engine.handle(), "INSERT INTO calls VALUES (0)").await.is_ok()
        })
        .await;
    }
    engine.close().await;
}

#[tokio::test]
async fn a_write_that_fails_as_reads_do_on_a_standby_is_sent_once() {
    let (cluster, _proxy, engine) = start("codes").await;
    for code in ["40001", "40P01", "25006", "55000", "57P01", "08006"] {
        for streamed in [false, true] {
            let before: i64 = ask(cluster.primary(), "SELECT nextval('tried')").await;
            let sql = format!("SELECT fail(nextval('tried')::int, '{code}')");
            let db = engine.handle();
            let failed = if streamed { by_stream(&db, &sql).await } else { run(&db, &sql).await };
            assert_eq!(sqlstate(&failed.unwrap_err()), code);
            let after: i64 = ask(cluster.primary(), "SELECT nextval('tried')").await;
            assert_eq!(after, before + 2, "{code}, streamed: {streamed}");
        }
    }
    engine.close().await;
}

#[tokio::test]
async fn a_read_on_the_primary_keeps_its_serialization_failure() {
    let (cluster, _proxy, engine) = start("authors").await;
    // A function that claims to be stable, so that it passes for a read, and fails on each node.
    let liar = "CREATE FUNCTION liar() RETURNS int LANGUAGE plpgsql STABLE AS
        'BEGIN RAISE EXCEPTION USING ERRCODE = ''40001'', MESSAGE = ''no''; END'";
    cluster.primary().execute(liar).await.unwrap();
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    let db = engine.handle().primary().recorded();
    assert_eq!(sqlstate(&run(&db, "SELECT liar()").await.unwrap_err()), "40001");
    assert_eq!(db.timings().len(), 1);
    engine.close().await;
}

#[tokio::test]
async fn a_write_that_was_never_sent_says_so() {
    let (cluster, proxy, engine) = start("unsent").await;
    proxy.cut().await;
    wait_until("the primary is known to be down", async || engine.status().primary.is_none()).await;
    let failed = run(&engine.handle(), "INSERT INTO calls VALUES (9)").await.unwrap_err();
    match Error::of(&failed) {
        Some(Error::NoPrimary { .. } | Error::NodeDown { sent: false, .. }) => {}
        other => panic!("{other:?}: {failed}"),
    }
    proxy.heal().unwrap();
    wait_until("writes work again", async || {
        run(&engine.handle(), "INSERT INTO calls VALUES (10)").await.is_ok()
    })
    .await;
    let of = "SELECT count(*) FROM calls WHERE id = 9";
    assert_eq!(ask::<i64>(cluster.primary(), of).await, 0);
    engine.close().await;
}
