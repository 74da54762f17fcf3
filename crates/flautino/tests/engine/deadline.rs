//! A handle whose statements end by a moment.

use std::time::{Duration, Instant};

use flautino::{DeadlineStep, Error, Handle};
use flautino_lab::{Lab, ask, number, run, running, wait_until};
use futures_util::TryStreamExt;

const ENDLESS: &str = "SELECT pg_sleep(600)";

const PID: &str = "SELECT pg_backend_pid()::bigint";
/// Long enough for a statement to be sent, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(3);

fn soon(db: &Handle) -> Handle {
    db.with_deadline(Instant::now() + PATIENCE)
}

/// How far the statement was.
fn step(error: &sqlx::Error) -> DeadlineStep {
    match Error::of(error) {
        Some(Error::DeadlineExceeded { step }) => *step,
        _ => panic!("{error}"),
    }
}

#[tokio::test]
async fn waiting_for_a_connection_ends_and_nothing_is_sent() {
    let lab = Lab::named("deadline").one_connection().config(|config| {
        config.pool.acquire_timeout = Duration::from_secs(600);
    });
    let lab = lab.start().await;
    let lease = lab.db.acquire().await.unwrap();
    let late = soon(&lab.db);
    assert_eq!(step(&run(&late, "SELECT 1").await.unwrap_err()), DeadlineStep::Waiting);
    assert_eq!(step(&late.acquire().await.unwrap_err()), DeadlineStep::Waiting);
    assert_eq!(step(&late.begin().await.unwrap_err()), DeadlineStep::Waiting);
    drop(lease);
    // It is over, whatever there is by now.
    assert_eq!(step(&run(&late, "SELECT 1").await.unwrap_err()), DeadlineStep::Waiting);
    run(&lab.db, "SELECT 1").await.unwrap();
    lab.engine.close().await;
}

#[tokio::test]
async fn a_statement_under_way_is_cancelled_at_the_server_and_its_connection_serves_on() {
    let lab = Lab::named("deadline").one_connection().start().await;
    let before = number(&lab.db, PID).await.unwrap();
    let error = run(&soon(&lab.db), ENDLESS).await.unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Running, "{error}");
    wait_until("it has ended at the server", async || {
        running(lab.primary(), "deadline", ENDLESS).await == 0
    })
    .await;
    assert_eq!(number(&lab.db, PID).await.unwrap(), before);
    lab.engine.close().await;
}

#[tokio::test]
async fn waiting_for_a_primary_ends() {
    let lab = Lab::named("deadline").replicas(1).config(|config| {
        config.routing.failover_timeout = Duration::from_secs(600);
    });
    let lab = lab.start().await;
    lab.primary().kill().await.unwrap();
    wait_until("that is known", async || lab.engine.status().primary.is_none()).await;
    let error = run(&soon(&lab.db), "CREATE TABLE a (b int)").await.unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Waiting);
    lab.engine.close().await;
}

#[tokio::test]
async fn in_a_transaction_what_is_late_aborts_it_and_a_commit_is_never_cut() {
    let lab = Lab::named("deadline").table("t (n int)").start().await;
    let mut tx = soon(&lab.db).begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    let error = sqlx::query(ENDLESS).execute(&mut tx).await.unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Running);
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(Error::of(&error), Some(Error::CommitAborted)), "{error}");
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, 0);

    let deadline = Instant::now() + PATIENCE;
    let mut tx = lab.db.with_deadline(deadline).begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut tx).await.unwrap();
    tokio::time::sleep_until(deadline.into()).await;
    let error = sqlx::query("INSERT INTO t VALUES (3)").execute(&mut tx).await.unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Waiting, "it was not sent");
    tx.commit().await.unwrap();
    assert_eq!(ask::<i64>(lab.primary(), "SELECT sum(n) FROM t").await, 2);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_stream_ends_with_it() {
    let lab = Lab::named("deadline").start().await;
    let endless = "SELECT n, pg_sleep(0.01) FROM generate_series(1, 60000) n";
    let late = soon(&lab.db);
    let rows = sqlx::query(endless).fetch(&late);
    let error = rows.try_for_each(async |_| Ok(())).await.unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Running);
    wait_until("it has ended at the server", async || {
        running(lab.primary(), "deadline", endless).await == 0
    })
    .await;
    lab.engine.close().await;
}

#[tokio::test]
async fn the_earlier_of_two_holds_and_the_server_is_not_to_blame() {
    let lab = Lab::named("deadline").replicas(1).start().await;
    let early = Instant::now() + PATIENCE;
    let late = lab.db.with_deadline(early).with_deadline(early + Duration::from_secs(600));
    assert_eq!(late.deadline(), Some(early));
    let error = run(&late.node("read_replica_1").unwrap(), ENDLESS).await.unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Running);
    let status = lab.engine.status();
    assert!(status.nodes.iter().all(|node| node.reason.is_none()), "{status:#?}");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_stream_that_flows_ends_with_it_too() {
    let lab = Lab::named("deadline").start().await;
    let flowing = "SELECT repeat('x', 1000) FROM generate_series(1, 100000000) n";
    let late = soon(&lab.db);
    let deadline = late.deadline().unwrap();
    let rows = sqlx::query(flowing).fetch(&late);
    let error = rows
        .try_for_each(async |_| {
            // Slower than the server, so that there is always a row at hand.
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(deadline.elapsed() < Duration::from_secs(60), "it goes on and on");
            Ok(())
        })
        .await
        .unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Running);
    let error = sqlx::query(flowing).fetch_all(&soon(&lab.db)).await.unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Running);
    lab.engine.close().await;
}

#[tokio::test]
async fn what_is_left_of_the_statement_before_is_not_waited_for_and_the_next_is_not_sent() {
    let lab = Lab::named("deadline").table("t (n int)").start().await;
    let mut lease = soon(&lab.db).acquire().await.unwrap();
    let mut rows =
        sqlx::query("SELECT repeat('x', 20000), pg_sleep(n / 3 * 60) FROM generate_series(0, 9) n")
            .fetch(&mut lease);
    rows.try_next().await.unwrap().unwrap();
    drop(rows);
    let error = sqlx::query("INSERT INTO t VALUES (1)").execute(&mut lease).await.unwrap_err();
    assert_eq!(step(&error), DeadlineStep::Waiting, "{error}");
    drop(lease);
    run(&lab.db, "SELECT 1").await.unwrap();
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM t").await, 0);
    lab.engine.close().await;
}
