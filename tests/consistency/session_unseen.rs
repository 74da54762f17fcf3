//! At the level `Session`, what was seen counts also where the session did not see the end of it.

use futures_util::TryStreamExt;

use crate::common::*;

/// Its first row was seen, whatever became of the rest.
#[tokio::test]
async fn what_a_dropped_stream_has_shown_counts_too() {
    let (cluster, engine, other) = counter().await;
    cluster.primary().execute(ADD).await.unwrap();
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    let mut saw_the_new_one = 0;
    for _ in 0..40 {
        let db = session(&engine);
        let mut rows =
            sqlx::query_scalar::<_, i64>("SELECT n FROM c, generate_series(1, 3)").fetch(&db);
        let first = rows.try_next().await.unwrap().unwrap();
        drop(rows);
        saw_the_new_one += first;
        let next = read(&engine, &db, COUNTER).await;
        assert!(next.value >= first, "{next:?} after {first}");
    }
    assert!(saw_the_new_one > 0);
    engine.close().await;
    other.close().await;
}

/// The later end of two reads may be that of the older picture.
#[tokio::test]
async fn of_reads_at_the_same_time_the_furthest_counts() {
    let (cluster, engine, other) = counter().await;
    cluster.primary().execute(ADD).await.unwrap();
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    let napping = "SELECT n FROM c, (SELECT pg_sleep(0.1)) AS nap";
    let mut differed = 0;
    for _ in 0..20 {
        let db = session(&engine);
        let quick = sqlx::query_scalar::<_, i64>(COUNTER).fetch_one(&db);
        let slow = sqlx::query_scalar::<_, i64>(napping).fetch_one(&db);
        let (quick, slow) = tokio::join!(quick, slow);
        let (quick, slow) = (quick.unwrap(), slow.unwrap());
        differed += i32::from(slow != quick);
        let next = read(&engine, &db, COUNTER).await;
        assert!(next.value >= quick.max(slow), "{next:?} after {quick} and {slow}");
    }
    assert!(differed > 0, "both replicas have served at the same time");
    engine.close().await;
    other.close().await;
}
