//! Connections end when they rested or lived for long enough, and are made anew where they are wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use flautino::Handle;
use flautino_cluster::Node;
use flautino_lab::{
    Lab, ask, has_session, pid, sessions_begun, sessions_of, until_sessions, wait_until,
};
use futures_util::future::try_join_all;

async fn use_at_once(db: &Handle, count: usize) {
    drop(try_join_all((0..count).map(|_| db.acquire())).await.unwrap());
}

async fn pids(node: &Node, name: &str) -> BTreeSet<i32> {
    let mut connection = node.connect().await.unwrap();
    let pids = sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE application_name = $1");
    pids.bind(name).fetch_all(&mut connection).await.unwrap().into_iter().collect()
}

#[tokio::test]
async fn connections_that_nobody_uses_are_closed_after_idle_timeout() {
    let lab = Lab::named("idle")
        .behind_proxy()
        .connections(5)
        .config(|config| config.pool.idle_timeout = Duration::from_secs(1))
        .start()
        .await;
    use_at_once(&lab.db, 5).await;
    until_sessions(lab.primary(), "idle", 5).await;
    until_sessions(lab.primary(), "idle", 0).await;
    assert_eq!((lab.pool().size, lab.pool().idle), (0, 0));
    pid(&lab.db).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn the_minimum_outlasts_idle_timeout_and_nothing_is_made_and_closed_all_the_time() {
    let lab = Lab::named("minimum")
        .behind_proxy()
        .connections(5)
        .config(|config| {
            config.pool.min_connections = 2;
            config.pool.idle_timeout = Duration::from_millis(500);
        })
        .start()
        .await;
    use_at_once(&lab.db, 5).await;
    until_sessions(lab.primary(), "minimum", 2).await;
    let begun = sessions_begun(lab.primary(), "minimum");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(sessions_of(lab.primary(), "minimum").await, 2);
    assert_eq!(sessions_begun(lab.primary(), "minimum"), begun);
    lab.engine.close().await;
}

#[tokio::test]
async fn one_that_is_used_again_and_again_does_not_idle() {
    let lab = Lab::named("busy")
        .behind_proxy()
        .connections(1)
        .config(|config| {
            config.pool.idle_timeout = Duration::from_secs(20);
            config.pool.max_lifetime = Duration::ZERO;
        })
        .start()
        .await;
    let before = pid(&lab.db).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(pid(&lab.db).await, before);
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn connections_that_rest_are_replaced_after_max_lifetime_where_a_minimum_is_kept() {
    let lab = Lab::named("replaced")
        .behind_proxy()
        .connections(5)
        .config(|config| {
            config.pool.min_connections = 5;
            config.pool.max_lifetime = Duration::from_secs(2);
        })
        .start()
        .await;
    until_sessions(lab.primary(), "replaced", 5).await;
    for _ in 0..2 {
        let before = pids(lab.primary(), "replaced").await;
        wait_until("all five are others", async || {
            let now = pids(lab.primary(), "replaced").await;
            now.len() == 5 && now.is_disjoint(&before)
        })
        .await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn connections_that_are_used_all_the_time_are_replaced_too_and_no_statement_fails() {
    let lab = Lab::named("used")
        .behind_proxy()
        .connections(5)
        .config(|config| config.pool.max_lifetime = Duration::from_secs(1))
        .start()
        .await;
    use_at_once(&lab.db, 5).await;
    let before = pids(lab.primary(), "used").await;
    assert!(!before.is_empty());
    let mut busy = std::pin::pin!(try_join_all((0..8).map(async |_| -> Result<(), sqlx::Error> {
        loop {
            sqlx::query("SELECT 1").execute(&lab.db).await?;
        }
    })));
    let replaced = wait_until("all are others, and none is old", async || {
        let now = pids(lab.primary(), "used").await;
        !now.is_empty() && now.is_disjoint(&before)
    });
    tokio::select! {
        failed = &mut busy => panic!("{failed:?}"),
        took = replaced => println!("replaced after {took:?}"),
    }
    let oldest = "SELECT coalesce(max(clock_timestamp() - backend_start) < '10 s', true) \
                  FROM pg_stat_activity WHERE application_name = 'used'";
    assert!(ask::<bool>(lab.primary(), oldest).await);
    assert!(sessions_of(lab.primary(), "used").await <= 5);
    lab.engine.close().await;
}

#[tokio::test]
async fn one_that_is_lent_beyond_its_lifetime_is_its_user_s_to_the_end() {
    let lab = Lab::named("lent")
        .behind_proxy()
        .one_connection()
        .config(|config| config.pool.max_lifetime = Duration::from_millis(500))
        .start()
        .await;
    let mut lease = lab.db.acquire().await.unwrap();
    let own = async |lease: &mut flautino::Lease| -> i32 {
        sqlx::query_scalar("SELECT pg_backend_pid() FROM pg_sleep(0.4)")
            .fetch_one(lease)
            .await
            .unwrap()
    };
    let before = own(&mut lease).await;
    for _ in 0..5 {
        assert_eq!(own(&mut lease).await, before);
    }
    drop(lease);
    assert_ne!(pid(&lab.db).await, before);
    wait_until("its session is gone", async || !has_session(lab.primary(), before).await).await;
    lab.engine.close().await;
}

/// A machine that stands still may see all of them end at once: what counts is that they are not
/// due at once.
#[tokio::test]
async fn many_that_were_made_together_do_not_end_together() {
    let lab = Lab::named("jitter")
        .behind_proxy()
        .connections(20)
        .config(|config| {
            config.pool.connect_concurrency = 20;
            config.pool.max_lifetime = Duration::from_secs(15);
        })
        .start()
        .await;
    let mut leases = try_join_all((0..20).map(|_| lab.db.acquire())).await.unwrap();
    let ask = leases.iter_mut().map(|lease| sqlx::query("SELECT 1").execute(lease));
    try_join_all(ask).await.unwrap();
    drop(leases);
    let mut watcher = lab.primary().connect().await.unwrap();
    let mut seen = BTreeSet::new();
    wait_until("all have ended", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'jitter'";
        let left: i64 = sqlx::query_scalar(sql).fetch_one(&mut watcher).await.unwrap();
        seen.insert(left);
        left == 0
    })
    .await;
    println!("seen: {seen:?}");
    assert!(seen.len() > 2, "all at once: {seen:?}");
    lab.engine.close().await;
}
