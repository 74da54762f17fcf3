//! A statement that nobody waits for any more: cancelled at the server, its connection kept.

use std::time::{Duration, Instant};

use flautino_lab::{
    Lab, ask, has_session, pid, polled_at_most, running, until_running, wait_until,
};
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt};

const SLEEP: &str = "SELECT pg_sleep(60)";

/// How long the server may take to notice.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_dropped_statement_is_cancelled_and_its_connection_serves_the_next() {
    let Lab { cluster, engine, db, .. } = Lab::named("sleeps").one_connection().start().await;
    let old = pid(&db).await;
    let sleeping = db.clone();
    let sleep = tokio::spawn(async move { sqlx::query(SLEEP).execute(&sleeping).await });
    until_running(cluster.primary(), "sleeps", SLEEP).await;
    sleep.abort();
    let dropped = Instant::now();
    assert_eq!(pid(&db).await, old);
    assert!(dropped.elapsed() < SOON, "{:?}", dropped.elapsed());
    assert_eq!(running(cluster.primary(), "sleeps", SLEEP).await, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_stream_dropped_half_way_is_ended_and_the_next_query_does_not_see_its_rows() {
    const SERIES: &str = "SELECT generate_series(1, 10000000)";
    let Lab { cluster, engine, db, .. } = Lab::named("stream").one_connection().start().await;
    let mut rows = sqlx::query_scalar::<_, i32>(SERIES).fetch(&db);
    for expected in 1..=3 {
        assert_eq!(rows.next().await.unwrap().unwrap(), expected);
    }
    drop(rows);
    let dropped = Instant::now();
    let answer: i32 = sqlx::query_scalar("SELECT -7").fetch_one(&db).await.unwrap();
    assert_eq!(answer, -7);
    assert!(dropped.elapsed() < SOON, "{:?}", dropped.elapsed());
    assert_eq!(running(cluster.primary(), "stream", SERIES).await, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_statement_dropped_at_any_point_leaves_no_answer_for_the_next() {
    let lab = Lab::named("points").one_connection().start().await;
    for polls in 1..10 {
        for value in 0..10 {
            let abandoned = sqlx::query_scalar::<_, i32>("SELECT $1::int4").bind(1000 + value);
            let _ = polled_at_most(polls, abandoned.fetch_one(&lab.db)).await;
            let answer: i32 =
                sqlx::query_scalar("SELECT $1::int4").bind(value).fetch_one(&lab.db).await.unwrap();
            assert_eq!(answer, value);
        }
    }
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_half_read_stream_on_a_lease_does_not_reach_the_lease_s_next_statement_or_next_user() {
    let lab = Lab::named("lease").one_connection().start().await;
    let series = "SELECT generate_series(1, 100000)";
    let mut lease = lab.db.acquire().await.unwrap();
    {
        let mut rows = sqlx::query_scalar::<_, i32>(series).fetch(&mut lease);
        rows.next().await.unwrap().unwrap();
    }
    let answer: i32 = sqlx::query_scalar("SELECT -1").fetch_one(&mut lease).await.unwrap();
    assert_eq!(answer, -1);
    {
        let mut rows = sqlx::query_scalar::<_, i32>(series).fetch(&mut lease);
        rows.next().await.unwrap().unwrap();
    }
    drop(lease);
    let rows: Vec<i32> =
        sqlx::query_scalar::<_, i32>("SELECT -2").fetch(&lab.db).try_collect().await.unwrap();
    assert_eq!(rows, [-2]);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_half_read_stream_through_the_bare_connection_of_a_lease_is_noticed_too() {
    let lab = Lab::named("bare").one_connection().start().await;
    let mut lease = lab.db.acquire().await.unwrap();
    {
        let mut rows =
            sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 100000)").fetch(&mut *lease);
        rows.next().await.unwrap().unwrap();
    }
    drop(lease);
    let rows: Vec<i32> =
        sqlx::query_scalar::<_, i32>("SELECT -2").fetch(&lab.db).try_collect().await.unwrap();
    assert_eq!(rows, [-2]);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_thousand_abandoned_statements_leave_the_pool_whole() {
    let Lab { cluster, engine, db, .. } = Lab::named("storm").one_connection().start().await;
    for index in 0..1000_usize {
        let query = sqlx::query("SELECT pg_sleep(0.001)").execute(&db);
        let _ = polled_at_most(index % 4, query).await;
    }
    pid(&db).await;
    let status = &engine.status().nodes[0];
    assert_eq!((status.in_flight, status.pool.unwrap().size), (0, 1), "{status:?}");
    wait_until("one session is left", async || {
        flautino_lab::sessions_of(cluster.primary(), "storm").await == 1
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn a_cancel_that_would_go_over_a_dead_connection_costs_the_pool_no_other() {
    let lab = Lab::named("carried").connections(4).always_warm().start().await;
    let mut leases = try_join_all((0..4).map(|_| lab.db.acquire())).await.unwrap();
    let mut pids = Vec::new();
    for lease in &mut leases {
        let pid: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(lease).await.unwrap();
        pids.push(pid);
    }
    let mut busy = leases.remove(0);
    // The one that is given back last is taken first, for a cancel too.
    drop(leases);
    let dead = pids.pop().unwrap();
    ask::<bool>(lab.primary(), &format!("SELECT pg_terminate_backend({dead})")).await;
    wait_until("its session has ended", async || !has_session(lab.primary(), dead).await).await;

    tokio::select! {
        ended = sqlx::query(SLEEP).execute(&mut busy) => panic!("{ended:?}"),
        () = until_running(lab.primary(), "carried", SLEEP) => {}
    }
    drop(busy);
    wait_until("it is cancelled", async || lab.pool().in_use == 0).await;
    for pid in pids {
        assert!(has_session(lab.primary(), pid).await, "{pid}");
    }
    lab.engine.close().await;
}
