//! What was given up (by a timeout, a select, a drop) is cancelled when its transaction or its lease goes
//! on, and not waited for.

use std::pin::pin;
use std::time::{Duration, Instant};

use flautino::{Error, Lease, Transaction, TransactionOptions};
use flautino_lab::{Bouncer, Lab, ask, config, pid, running, sqlstate, until_running, wait_until};
use futures_util::StreamExt;

use crate::uncancellable::STUBBORN;

const SLEEP: &str = "SELECT pg_sleep(60)";
const COUNT: &str = "SELECT count(*) FROM t";
/// Far less than the statement takes, and more than a busy machine needs.
const SOON: Duration = Duration::from_secs(20);

async fn start(name: &str) -> Lab {
    let lab = Lab::named(name).without_client_check().connections(2);
    lab.table("t (a int)").start().await
}

/// Polls the statement until the server runs it, then drops it.
async fn give_up<T>(lab: &Lab, name: &str, sql: &str, statement: impl Future<Output = T>) {
    let mut statement = pin!(statement);
    tokio::select! {
        _ = &mut statement => panic!("`{sql}` takes long"),
        () = until_running(lab.primary(), name, sql) => {}
    }
}

/// Begins, inserts a row, and gives up a statement.
async fn begun(lab: &Lab, name: &str) -> Transaction {
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    give_up(lab, name, SLEEP, sqlx::query(SLEEP).execute(&mut tx)).await;
    tx
}

/// The same, with everything over the bare connection, as sqlx's users write it.
async fn begun_bare(lab: &Lab, name: &str) -> Transaction {
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await.unwrap();
    give_up(lab, name, SLEEP, sqlx::query(SLEEP).execute(&mut *tx)).await;
    tx
}

/// Runs it, which must not take as long as the statement.
async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(SOON, work).await;
    done.unwrap_or_else(|_| panic!("{what} waited for what was given up"))
}

/// Nothing of it was committed, nothing of it runs, and its connection serves on.
async fn check_undone(lab: &Lab, name: &str) {
    assert_eq!(running(lab.primary(), name, SLEEP).await, 0);
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 0);
    soon("the pool", pid(&lab.db)).await;
}

fn is_aborted(result: &Result<(), sqlx::Error>) -> bool {
    let error = result.as_ref().err().and_then(Error::of);
    matches!(error, Some(Error::CommitAborted))
}

#[tokio::test]
async fn a_rollback_cancels_it() {
    let lab = start("rollback").await;
    for bare in [false, true] {
        let tx = match bare {
            false => begun(&lab, "rollback").await,
            true => begun_bare(&lab, "rollback").await,
        };
        soon("rollback", tx.rollback()).await.unwrap();
        check_undone(&lab, "rollback").await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_commit_cancels_it_and_says_that_nothing_was_committed() {
    let lab = start("commit").await;
    for bare in [false, true] {
        let tx = match bare {
            false => begun(&lab, "commit").await,
            true => begun_bare(&lab, "commit").await,
        };
        let committed = soon("commit", tx.commit()).await;
        assert!(is_aborted(&committed), "{committed:?}");
        check_undone(&lab, "commit").await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_commit_after_one_that_had_ended_by_then_commits() {
    let lab = start("ended").await;
    let mut tx = lab.db.begin().await.unwrap();
    let insert = "INSERT INTO t SELECT 1 FROM pg_sleep(0.2)";
    give_up(&lab, "ended", insert, sqlx::query(insert).execute(&mut tx)).await;
    wait_until("it has ended", async || running(lab.primary(), "ended", insert).await == 0).await;
    tx.commit().await.unwrap();
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn the_closure_form_s_end_cancels_it_whichever_it_is() {
    let lab = start("closure").await;
    let given_up = async |tx: &mut Transaction| {
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *tx).await?;
        let sleep = sqlx::query(SLEEP).execute(&mut *tx);
        tokio::time::timeout(Duration::from_millis(300), sleep).await.unwrap_err();
        Ok::<_, sqlx::Error>(())
    };
    let committed = soon("the end", lab.db.transaction(given_up)).await;
    assert!(is_aborted(&committed), "{committed:?}");
    check_undone(&lab, "closure").await;
    let failing = async |tx: &mut Transaction| {
        given_up(tx).await?;
        Err::<(), _>(sqlx::Error::RowNotFound)
    };
    let failed = soon("the end", lab.db.transaction(failing)).await.unwrap_err();
    assert!(matches!(failed, sqlx::Error::RowNotFound), "{failed:?}");
    check_undone(&lab, "closure").await;
    lab.engine.close().await;
}

#[tokio::test]
async fn a_savepoint_s_rollback_cancels_it_and_the_transaction_goes_on() {
    let lab = start("savepoint").await;
    for bare in [false, true] {
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        let mut savepoint = tx.savepoint().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (2)").execute(&mut savepoint).await.unwrap();
        if bare {
            let sleep = sqlx::query(SLEEP).execute(&mut **savepoint);
            give_up(&lab, "savepoint", SLEEP, sleep).await;
        } else {
            let sleep = sqlx::query(SLEEP).execute(&mut savepoint);
            give_up(&lab, "savepoint", SLEEP, sleep).await;
        }
        soon("the savepoint", savepoint.rollback()).await.unwrap();
        sqlx::query("INSERT INTO t VALUES (3)").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let rows: Vec<i32> =
            sqlx::query_scalar("DELETE FROM t RETURNING a").fetch_all(&lab.db).await.unwrap();
        assert_eq!(rows, [1, 3]);
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn so_does_the_drop_of_a_savepoint() {
    let lab = start("dropped").await;
    for round in 0..5 {
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        let mut savepoint = tx.savepoint().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (2)").execute(&mut savepoint).await.unwrap();
        let sleep = sqlx::query(SLEEP).execute(&mut savepoint);
        give_up(&lab, "dropped", SLEEP, sleep).await;
        drop(savepoint);
        // The cancel may hit the rollback to the savepoint too; then it is an error, and no lie.
        let committed = soon("commit", tx.commit()).await;
        let rows = ask::<i64>(lab.primary(), COUNT).await;
        println!("round {round}: {committed:?}");
        assert!(committed.is_ok() || is_aborted(&committed), "{committed:?}");
        assert_eq!(rows, i64::from(committed.is_ok()));
        lab.primary().execute("TRUNCATE t").await.unwrap();
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_savepoint_s_commit_fails_and_undoes_its_part() {
    let lab = start("release").await;
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    let mut savepoint = tx.savepoint().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut savepoint).await.unwrap();
    give_up(&lab, "release", SLEEP, sqlx::query(SLEEP).execute(&mut savepoint)).await;
    let failed = soon("release", savepoint.commit()).await.unwrap_err();
    assert_eq!(sqlstate(&failed), "25P02");
    tx.commit().await.unwrap();
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 1);
    lab.engine.close().await;
}

#[tokio::test]
async fn the_next_statement_cancels_it() {
    let lab = start("next").await;
    // In a transaction, which it aborts.
    let mut tx = begun(&lab, "next").await;
    let failed = soon("the next", sqlx::query(COUNT).execute(&mut tx)).await.unwrap_err();
    assert_eq!(sqlstate(&failed), "25P02");
    tx.rollback().await.unwrap();
    // On a lease, which keeps its session.
    let mut lease: Lease = lab.db.acquire().await.unwrap();
    let own = "SELECT pg_backend_pid()";
    let before: i32 = sqlx::query_scalar(own).fetch_one(&mut lease).await.unwrap();
    for _ in 0..5 {
        give_up(&lab, "next", SLEEP, sqlx::query(SLEEP).execute(&mut lease)).await;
        let next = sqlx::query_scalar::<_, i32>(own).fetch_one(&mut lease);
        assert_eq!(before, soon("the next", next).await.unwrap());
    }
    drop(lease);
    check_undone(&lab, "next").await;
    lab.engine.close().await;
}

#[tokio::test]
async fn a_stream_that_was_waited_for_is_given_up_and_one_dropped_between_rows_is_not() {
    let lab = start("stream").await;
    let rows = "SELECT n, pg_sleep(CASE WHEN n < 1000 THEN 0 ELSE 60 END)::text \
                FROM generate_series(1, 1000) n";
    // Its second part never comes.
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    {
        let mut stream = sqlx::query(rows).fetch(&mut tx);
        while let Ok(row) = tokio::time::timeout(Duration::from_millis(300), stream.next()).await {
            row.unwrap().unwrap();
        }
    }
    let committed = soon("commit", tx.commit()).await;
    assert!(is_aborted(&committed), "{committed:?}");
    // Whoever has seen enough goes on, and loses nothing.
    let mut tx = lab.db.begin().await.unwrap();
    {
        let sql = "INSERT INTO t SELECT generate_series(1, 100000) RETURNING a";
        let mut stream = sqlx::query_scalar::<_, i32>(sql).fetch(&mut tx);
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    }
    sqlx::query("INSERT INTO t VALUES (0)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 100_001);
    // Not even the rest of a long one is waited for where it is undone.
    let mut tx = lab.db.begin().await.unwrap();
    {
        let sql = "SELECT generate_series(1, 2000000000)";
        let mut stream = sqlx::query_scalar::<_, i32>(sql).fetch(&mut tx);
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    }
    soon("rollback", tx.rollback()).await.unwrap();
    lab.engine.close().await;
}

#[tokio::test]
async fn with_no_other_connection_of_the_pool_a_cancel_goes_over_one_beside_it() {
    let lab = Lab::named("one").without_client_check().one_connection();
    let lab = lab.table("t (a int)").start().await;
    let before = pid(&lab.db).await;
    let tx = begun(&lab, "one").await;
    soon("rollback", tx.rollback()).await.unwrap();
    assert_eq!(pid(&lab.db).await, before);
    lab.engine.close().await;
}

#[tokio::test]
async fn one_that_no_cancel_ends_is_an_error_after_a_second_and_its_process_is_ended() {
    let lab = start("stubborn").await;
    lab.primary().execute(STUBBORN).await.unwrap();
    let call = "SELECT stubborn()";
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    give_up(&lab, "stubborn", call, sqlx::query(call).execute(&mut tx)).await;
    let failed = soon("rollback", tx.rollback()).await.unwrap_err();
    assert!(matches!(Error::of(&failed), Some(Error::NotEnded { .. })), "{failed:?}");
    wait_until("it is ended", async || running(lab.primary(), "stubborn", call).await == 0).await;
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn behind_a_pooler_it_is_left_after_a_second() {
    let lab = start("pooler").await;
    let Some(bouncer) = Bouncer::start(lab.primary()).await else { return };
    let mut config = config(&lab.cluster, "pooler");
    let port = bouncer.port;
    config.main.url =
        Some(format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable"));
    config.main.pgbouncer = true;
    let engine = flautino::Engine::new(config).unwrap();
    engine.open().await.unwrap();
    let mut tx = engine.handle().begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    let sleep = "SELECT pg_sleep(25)";
    give_up(&lab, "pooler", sleep, sqlx::query(sleep).execute(&mut tx)).await;
    let started = Instant::now();
    let failed = tx.rollback().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(matches!(Error::of(&failed), Some(Error::NotEnded { .. })), "{failed:?}");
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 0);
    engine.close_within(Duration::ZERO).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn an_attempt_that_was_given_up_is_not_tried_again_by_itself() {
    let lab = start("attempts").await;
    let options = TransactionOptions { retries: 3, ..TransactionOptions::default() };
    let attempts = std::cell::Cell::new(0);
    let work = async |tx: &mut Transaction| {
        attempts.set(attempts.get() + 1);
        let sleep = sqlx::query(SLEEP).execute(&mut *tx);
        let given_up = tokio::time::timeout(Duration::from_millis(100), sleep).await;
        given_up.map_err(|_| sqlx::Error::WorkerCrashed)?.map(drop)
    };
    soon("the end", lab.db.transaction_with(options, work)).await.unwrap_err();
    assert_eq!(attempts.get(), 1);
    lab.engine.close().await;
}
