//! The position of a token may be ahead of what the primary has flushed, and so of what any replica can
//! replay for a while.

use flautino_lab::wait_until;
use sqlx::Connection;

use crate::asked_positions::{LONG, lab, write};
use crate::common::*;

/// Writes WAL that no query can see and that only the next commit or the WAL writer flushes.
const UNFLUSHED: [(&str, &str); 2] = [
    ("a message", "SELECT pg_logical_emit_message(false, 'test', 'unflushed')"),
    ("a read that removes old versions of rows", "SELECT count(*) FROM old"),
];

#[tokio::test]
async fn a_token_behind_wal_that_is_not_flushed_needs_not_wait_for_a_commit() {
    // Each page counts as full, so that a read removes what it can.
    let old = "CREATE TABLE old (id int PRIMARY KEY, n int) WITH (fillfactor = 10)";
    let rows = "INSERT INTO old SELECT generate_series(1, 100), 0";
    let lab = lab("unflushed", 1, LONG)
        .setting("wal_writer_delay", "10s")
        .sql(old)
        .sql(rows)
        .start()
        .await;
    let unflushed = "SELECT (pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn())::int8";
    for (what, sql) in UNFLUSHED {
        let mut db = lab.engine.handle();
        // Old versions that a snapshot may still need stay, and the server flushes now and then.
        wait_until(what, async || {
            lab.primary().execute("UPDATE old SET n = n + 1 WHERE id % 8 = 0").await.unwrap();
            db = lab.engine.handle();
            insert(&db, 1).await;
            lab.primary().execute(sql).await.unwrap();
            flautino_lab::ask::<i64>(lab.primary(), unflushed).await > 0
        })
        .await;
        let db = with_token(&lab.engine, db.token().await.unwrap());
        let read = read(&lab.engine, &db, COUNT).await;
        let all = flautino_lab::ask::<i64>(lab.primary(), COUNT).await;
        assert_eq!((read.value, &*read.reason), (all, "floor_met"), "{what}");
        // The WAL writer comes every ten seconds.
        assert!(read.took < NO_WAIT, "{what}: {read:?}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn an_asynchronous_commit_is_seen_where_its_token_is_served() {
    let lab = lab("asynchronous", 2, LONG)
        .setting("wal_writer_delay", "50ms")
        .setting("synchronous_commit", "off")
        .start()
        .await;
    let mut other = lab.primary().connect().await.unwrap();
    for round in 1..=20 {
        let token = write(&lab.engine, round).await;
        // Another one has begun by then, and ends only after the read.
        let mut other = other.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (0)").execute(&mut *other).await.unwrap();
        let read = read(&lab.engine, &with_token(&lab.engine, token), COUNT).await;
        assert_eq!((read.value, &*read.reason), (i64::from(round), "floor_met"), "{read:?}");
        other.rollback().await.unwrap();
    }
    lab.engine.close().await;
}
