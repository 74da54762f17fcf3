//! Many at once on a pool that was just opened.

use flautino_lab::{Lab, pid, sessions_of, until_sessions};

const TASKS: i64 = 2000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_at_once_on_a_pool_just_opened_are_served_by_ten_connections() {
    let lab = Lab::named("burst").behind_proxy().connections(10).start().await;
    // The one that `open` looked at the server with ends by itself.
    until_sessions(lab.primary(), "burst", 1).await;
    lab.proxy().reset_counters();
    let mut watcher = lab.primary().connect().await.unwrap();
    let work: Vec<_> = (0..TASKS)
        .map(|number| {
            let db = lab.db.clone();
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
    assert!(lab.proxy().accepted() <= 9, "{} beside the first", lab.proxy().accepted());
    assert!(sessions_of(lab.primary(), "burst").await <= 10);
    assert_eq!(lab.engine.status().nodes[0].in_flight, 0);
    pid(&lab.db).await;
    lab.engine.close().await;
}
