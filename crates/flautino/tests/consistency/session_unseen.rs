//! At the level `Session`, what was seen counts also where the session did not see the end of it.

use futures_util::TryStreamExt;

use crate::common::*;

/// Its first row was seen, whatever became of the rest.
#[tokio::test]
async fn what_a_dropped_stream_has_shown_counts_too() {
    let (cluster, engine, other) = counter().await;
    cluster.primary().execute(ADD).await.unwrap();
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    // More than is on the way at once, so that its end is not seen.
    let long = "SELECT n, repeat('x', 9000) FROM c, generate_series(1, 2000)";
    for _ in 0..40 {
        let db = session(&engine);
        let fresh = db.node("read_replica_1").unwrap();
        let mut rows = sqlx::query_as::<_, (i64, String)>(long).fetch(&fresh);
        let (first, _) = rows.try_next().await.unwrap().unwrap();
        drop(rows);
        assert_eq!(first, 1);
        let next = read(&engine, &db, COUNTER).await;
        assert!(next.value >= first, "{next:?} after {first}");
    }
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
    for round in 0..20 {
        let db = session(&engine);
        let [fresh, old] = ["read_replica_1", "read_replica_2"].map(|name| db.node(name).unwrap());
        let [first, last] = if round % 2 == 0 { [&fresh, &old] } else { [&old, &fresh] };
        let quick = sqlx::query_scalar::<_, i64>(COUNTER).fetch_one(first);
        let slow = sqlx::query_scalar::<_, i64>(napping).fetch_one(last);
        let (quick, slow) = tokio::join!(quick, slow);
        let (quick, slow) = (quick.unwrap(), slow.unwrap());
        assert_ne!(quick, slow);
        let next = read(&engine, &db, COUNTER).await;
        assert!(next.value >= quick.max(slow), "{next:?} after {quick} and {slow}");
    }
    engine.close().await;
    other.close().await;
}
