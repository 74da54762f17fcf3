//! Many at once on a pool that was just opened.

use std::time::Duration;

use flautino_lab::{Proxied, pid, sessions_of, until_sessions};

const TASKS: i64 = 2000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_at_once_on_a_pool_just_opened_are_served_by_ten_connections() {
    let server = Proxied::start("burst", |config| {
        config.pool.max_connections = 10;
        config.pool.acquire_timeout = Duration::from_secs(60);
    })
    .await;
    // The one that `open` looked at the server with ends by itself.
    until_sessions(server.node(), "burst", 1).await;
    server.proxy.reset_counters();
    let mut watcher = server.node().connect().await.unwrap();
    let work: Vec<_> = (0..TASKS)
        .map(|number| {
            let db = server.db.clone();
            tokio::spawn(async move {
                sqlx::query_scalar::<_, i64>("SELECT $1::int8").bind(number).fetch_one(&db).await
            })
        })
        .collect();
    let mut most = 0;
    while !work.iter().all(tokio::task::JoinHandle::is_finished) {
        let sessions: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'burst'",
        )
        .fetch_one(&mut watcher)
        .await
        .unwrap();
        most = most.max(sessions);
    }
    for (task, number) in work.into_iter().zip(0..) {
        assert_eq!(task.await.unwrap().unwrap(), number);
    }
    assert!(most <= 10, "{most} sessions at once");
    assert!(server.proxy.accepted() <= 9, "{} beside the first", server.proxy.accepted());
    assert!(sessions_of(server.node(), "burst").await <= 10);
    assert_eq!(server.engine.status().nodes[0].in_flight, 0);
    pid(&server.db).await;
    server.engine.close().await;
}
