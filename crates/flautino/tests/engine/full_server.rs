//! A server that takes fewer connections than the pool would make: those there are serve all.

use std::time::Duration;

use flautino_cluster::Node;
use flautino_lab::{Lab, sqlstate, wait_until};
use futures_util::future::{join_all, try_join_all};
use sqlx::PgConnection;

/// A pool of forty, over a server that takes twelve.
async fn start(name: &str) -> Lab {
    Lab::named(name).setting("max_connections", "12").connections(40).start().await
}

/// Takes what the server still has; answers at least one.
async fn take_the_rest(node: &Node) -> Vec<PgConnection> {
    let mut taken = Vec::new();
    while let Ok(connection) = node.connect().await {
        taken.push(connection);
        assert!(taken.len() <= 12);
    }
    taken
}

/// Whether one more session would be accepted. Asked over one that is there.
async fn has_room(taken: &mut [PgConnection]) -> bool {
    let sql = "SELECT count(*) < 12 FROM pg_stat_activity WHERE backend_type = 'client backend'";
    sqlx::query_scalar(sql).fetch_one(&mut taken[0]).await.unwrap()
}

#[tokio::test]
async fn eighty_statements_at_once_all_succeed() {
    let lab = start("eighty").await;
    for _ in 0..2 {
        let statements = (0..80).map(async |number| {
            let statement = sqlx::query_scalar::<_, i64>("SELECT $1::int8 FROM pg_sleep(0.05)");
            (number, statement.bind(number).fetch_one(&lab.engine.handle()).await)
        });
        for (number, answer) in join_all(statements).await {
            assert_eq!(answer.unwrap(), number);
        }
    }
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn statements_are_served_by_the_one_connection_where_the_server_has_no_other() {
    let lab = start("alone").await;
    let held = lab.engine.handle().acquire().await.unwrap();
    let taken = take_the_rest(lab.primary()).await;
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let db = lab.engine.handle();
            tokio::spawn(async move { sqlx::query("SELECT 1").execute(&db).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(waiting.iter().all(|task| !task.is_finished()), "they wait for what is given back");
    drop(held);
    for task in waiting {
        task.await.unwrap().unwrap();
    }
    // And with more as soon as there is room.
    drop(taken);
    let leases = wait_until("there is room", async || {
        let two = try_join_all((0..2).map(|_| lab.engine.handle().acquire()));
        tokio::time::timeout(Duration::from_secs(1), two).await.is_ok_and(|two| two.is_ok())
    });
    leases.await;
    lab.engine.close().await;
}

/// Runs this many statements at once; those that failed.
async fn at_once(lab: &Lab, count: usize) -> Vec<sqlx::Error> {
    let statements = (0..count).map(async |_| {
        let answer = sqlx::query("SELECT pg_sleep(0.01)").execute(&lab.engine.handle()).await;
        answer.err()
    });
    join_all(statements).await.into_iter().flatten().collect()
}

#[tokio::test]
async fn so_are_they_where_the_role_may_have_no_more() {
    let lab = Lab::named("role").as_role("app").connections(10).start().await;
    lab.primary().execute("ALTER ROLE app CONNECTION LIMIT 2").await.unwrap();
    for _ in 0..2 {
        let failed = at_once(&lab, 30).await;
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn the_last_place_of_the_server_serves_all_who_ask_for_one_at_once() {
    let lab = start("last").await;
    for _ in 0..5 {
        let held = lab.engine.handle().acquire().await.unwrap();
        let mut taken = take_the_rest(lab.primary()).await;
        held.close().await.unwrap();
        wait_until("its place is free", async || {
            lab.pool().size == 0 && has_room(&mut taken).await
        })
        .await;
        let failed = at_once(&lab, 10).await;
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
        drop(taken);
        wait_until("there is room", async || take_the_rest(lab.primary()).await.len() > 8).await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn where_there_is_no_place_at_all_each_is_told_so_at_once() {
    let lab = start("none").await;
    let held = lab.engine.handle().acquire().await.unwrap();
    let mut taken = take_the_rest(lab.primary()).await;
    held.close().await.unwrap();
    wait_until("its place is taken", async || {
        taken.extend(lab.primary().connect().await.ok());
        !has_room(&mut taken).await
    })
    .await;
    let started = std::time::Instant::now();
    let failed = at_once(&lab, 10).await;
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(failed.len(), 10);
    for error in failed {
        assert_eq!(sqlstate(&error), "53300", "{error:?}");
    }
    drop(taken);
    let served = wait_until("there is room", async || at_once(&lab, 1).await.is_empty());
    served.await;
    lab.engine.close().await;
}
