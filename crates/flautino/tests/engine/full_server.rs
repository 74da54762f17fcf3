//! A server that takes fewer connections than the pool would make: those there are serve all.

use std::time::Duration;

use flautino_cluster::Node;
use flautino_lab::Lab;
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
    let leases = flautino_lab::wait_until("there is room", async || {
        let two = try_join_all((0..2).map(|_| lab.engine.handle().acquire()));
        tokio::time::timeout(Duration::from_secs(1), two).await.is_ok_and(|two| two.is_ok())
    });
    leases.await;
    lab.engine.close().await;
}
