//! The primary is killed, and nobody is promoted: reads go on from the replicas, also in an app that
//! starts now; writes wait for `failover_timeout`, and are told then that there is no primary.

use std::time::{Duration, Instant};

use flautino::{Engine, Error, Token};
use flautino_lab::{App, config, open, status_of, wait_until};
use futures_util::future::join_all;

use crate::common::{AT_ONCE, FAILOVER_TIMEOUT, MAIN, REPLICAS, Rig, SLACK, cluster, routes};
use crate::load::{Load, assert_none};

fn waited_for_a_primary(took: Duration) -> bool {
    // Who waits twice takes twenty seconds.
    (FAILOVER_TIMEOUT..FAILOVER_TIMEOUT + 8 * SLACK).contains(&took)
}

/// Sessions that bring the token along read, at once, what it is a token of.
async fn sessions_go_on(engine: &Engine, token: &Token) {
    let reads = join_all((0..20).map(async |_| {
        let db = engine.handle();
        db.observe(token);
        let started = Instant::now();
        let sql = "SELECT count(*) FROM entries WHERE id = 0";
        let found: i64 = sqlx::query_scalar(sql).fetch_one(&db).await.unwrap();
        assert_eq!(found, 1);
        assert_ne!(db.served_by().as_deref(), Some(MAIN));
        started.elapsed()
    }));
    let longest = reads.await.into_iter().max().unwrap();
    assert!(longest < AT_ONCE, "{longest:?}");
}

/// The token of a write that all replicas have.
async fn replicated(rig: &Rig) -> Token {
    let db = rig.engine.handle();
    sqlx::query("INSERT INTO entries VALUES (0)").execute(&db).await.unwrap();
    for replica in [0, 1] {
        rig.cluster.replica(replica).catch_up_with(rig.cluster.primary()).await.unwrap();
    }
    db.token().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_and_writes_wait_and_are_told_that_there_is_no_primary() {
    let rig = Rig::start("no_primary", 2).await;
    let token = replicated(&rig).await;
    let load = Load::start(&rig);
    load.a_while().await;
    rig.cluster.primary().kill().await.unwrap();
    let dead = Instant::now();
    load.a_while_of_reads().await;
    rig.until_down(MAIN).await;
    sessions_go_on(&rig.engine, &token).await;
    // Of those that never knew the primary.
    wait_until("clients that write were told", async || load.failed_writes_since(dead) >= 3).await;
    sessions_go_on(&rig.engine, &token).await;
    assert_eq!(rig.engine.status().primary, None, "{:#?}", rig.engine.status());

    let restarted = Instant::now();
    rig.cluster.primary().start().await.unwrap();
    load.a_while().await;
    sessions_go_on(&rig.engine, &token).await;
    let tally = load.stop().await;

    tally.assert_free_reads_untouched();
    // A session that must see what only the primary has waits for it, and is never told a lie.
    let others = tally.reads().filter(|op| !op.is_done() && !op.way.is_free_read());
    assert_none("reads that failed otherwise", others.filter(|op| !op.found_no_primary()));
    let meanwhile = || tally.writes().filter(|op| op.started > dead && op.ended() < restarted);
    assert!(meanwhile().count() >= 3, "{}", meanwhile().count());
    let wrong = meanwhile().filter(|op| !op.found_no_primary() || !waited_for_a_primary(op.took));
    assert_none("writes not told in time that there is no primary", wrong);
    // Those under way when it died fail at once; nobody knows whether they were done.
    let under_way = tally.writes().filter(|op| op.started <= dead && op.ended() > dead);
    let slow = under_way.filter(|op| !op.is_done() && !op.found_no_primary() && op.took > AT_ONCE);
    assert_none("writes under way that did not fail at once", slow);
    let later = tally.writes().filter(|op| op.ended() > restarted && !op.is_done());
    assert_none("writes that failed later", later.filter(|op| op.took < FAILOVER_TIMEOUT));
    rig.cluster.primary().execute("DELETE FROM entries WHERE id = 0").await.unwrap();
    tally.assert_ledger(rig.cluster.primary()).await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_starts_without_a_primary_serves_reads_and_writes_wait_and_are_told() {
    let rig = Rig::start("before", 2).await;
    replicated(&rig).await;
    let Rig { cluster, app, .. } = rig;
    app.stop().await;
    cluster.primary().kill().await.unwrap();

    let engine = Engine::new(config(&cluster, "restarted")).unwrap();
    let started = Instant::now();
    let report = engine.open().await.unwrap();
    let took = started.elapsed();
    println!("open took {took:?}: {:?}", report.warnings);
    // The longest pause between two attempts is two seconds.
    assert!(took < FAILOVER_TIMEOUT + Duration::from_secs(2) + AT_ONCE, "{took:?}");
    let port = cluster.primary().port().to_string();
    assert!(report.warnings.iter().any(|text| text.contains(&port)), "{:?}", report.warnings);
    assert!(
        report.warnings.iter().any(|text| text.contains("no node takes writes")),
        "{:?}",
        report.warnings
    );
    let app = App::start(routes(&engine), engine.clone()).await;
    wait_until("the app is ready", async || engine.is_ready()).await;

    let get = async || reqwest::get(format!("{}/ids/0", app.url)).await.unwrap();
    for _ in 0..50 {
        let answer = get().await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.unwrap(), "1");
    }

    let http = reqwest::Client::new();
    let posts = ["ids/1", "ids/2", "tx/3", "tx/4"].map(async |path| {
        let started = Instant::now();
        let answer = http.post(format!("{}/{path}", app.url)).send().await.unwrap();
        (answer, started.elapsed())
    });
    let statement = async {
        let started = Instant::now();
        let sql = "INSERT INTO entries VALUES (5)";
        let failed = sqlx::query(sql).execute(&engine.handle()).await.unwrap_err();
        (failed, started.elapsed())
    };
    let (posts, (failed, took)) = tokio::join!(join_all(posts), statement);
    for (answer, took) in posts {
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
        assert!(waited_for_a_primary(took), "{took:?}");
    }
    assert!(matches!(Error::of(&failed), Some(Error::NoPrimary { .. })), "{failed}");
    assert!(waited_for_a_primary(took), "{took:?}");
    for name in REPLICAS {
        assert_eq!(status_of(&engine, name).health, flautino::Health::Up);
    }

    // Another start is not needed when a replica is promoted.
    cluster.replica(0).promote().await.unwrap();
    let load = Load::of(&engine, &app.url, 10);
    load.a_while().await;
    let tally = load.stop().await;
    tally.assert_no_read_failed();
    tally.assert_no_write_failed();
    cluster.replica(0).execute("DELETE FROM entries WHERE id = 0").await.unwrap();
    tally.assert_ledger(cluster.replica(0)).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_starts_without_a_primary_serves_sessions_whose_writes_the_replicas_have() {
    let rig = Rig::start("before", 2).await;
    let token = replicated(&rig).await;
    let Rig { cluster, app, .. } = rig;
    app.stop().await;
    cluster.primary().kill().await.unwrap();
    let engine = open(config(&cluster, "restarted")).await;
    sessions_go_on(&engine, &token).await;
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_startup_timeout_bounds_the_wait_for_a_primary() {
    let cluster = cluster(2).await;
    cluster.primary().kill().await.unwrap();
    let mut config = config(&cluster, "short");
    config.startup_timeout = Duration::from_secs(2);
    let engine = Engine::new(config).unwrap();
    let started = Instant::now();
    let report = engine.open().await.unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2) + AT_ONCE, "{took:?}");
    assert!(!report.warnings.is_empty());
    for _ in 0..20 {
        sqlx::query("SELECT count(*) FROM entries").execute(&engine.handle()).await.unwrap();
    }
    engine.close().await;
}
