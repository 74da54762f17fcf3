//! Transactions dropped at any point: rolled back, and their session serves on.

use std::time::Duration;

use flautino_cluster::Node;
use flautino_lab::{Lab, ask, pid, polled_at_most, until_running, wait_until};
use futures_util::StreamExt;

const SLEEP: &str = "SELECT pg_sleep(30)";
const COUNT: &str = "SELECT count(*) FROM t";
const SOON: Duration = Duration::from_secs(10);

async fn start(name: &str) -> Lab {
    let lab = Lab::named(name).behind_proxy().one_connection().without_client_check().start().await;
    lab.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    lab
}

/// The next statement is served by this process, and not in somebody's transaction.
async fn check(lab: &Lab, name: &str, expected: i32, what: &str) {
    let next = tokio::time::timeout(SOON, pid(&lab.db)).await;
    let next = next.unwrap_or_else(|_| panic!("{what}: the connection never came free"));
    assert_eq!(next, expected, "{what}");
    until_none_is_open(lab, name, what).await;
}

async fn until_none_is_open(lab: &Lab, name: &str, what: &str) {
    let open = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' \
         AND (state LIKE 'idle in transaction%' OR state = 'active')"
    );
    let none = format!("{what}: no transaction is open");
    wait_until(&none, async || ask::<i64>(lab.primary(), &open).await == 0).await;
}

#[tokio::test]
async fn a_begin_dropped_at_any_point_leaves_no_transaction_and_the_session_serves_on() {
    let lab = start("begin").await;
    let before = pid(&lab.db).await;
    for polls in 1..10 {
        drop(polled_at_most(polls, lab.db.begin()).await);
        check(&lab, "begin", before, &format!("{polls} polls")).await;
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_begin_whose_answer_was_under_way_leaves_none_either() {
    let lab = start("held_up").await;
    let before = pid(&lab.db).await;
    lab.proxy().stall();
    // Long enough to be sent.
    let begin = tokio::time::timeout(Duration::from_millis(100), lab.db.begin()).await;
    assert!(begin.is_err(), "nothing comes through");
    lab.proxy().heal().unwrap();
    check(&lab, "held_up", before, "held up").await;
    lab.engine.close().await;
}

#[tokio::test]
async fn a_transaction_dropped_with_a_statement_under_way_is_rolled_back() {
    let lab = start("statement").await;
    let before = pid(&lab.db).await;
    for round in 0..3 {
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        {
            let mut sleep = std::pin::pin!(sqlx::query(SLEEP).execute(&mut tx));
            tokio::select! {
                _ = &mut sleep => panic!("it sleeps for long"),
                () = until_running(lab.primary(), "statement", SLEEP) => {}
            }
        }
        drop(tx);
        check(&lab, "statement", before, &format!("round {round}")).await;
        assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 0);
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_transaction_dropped_with_rows_half_read_is_rolled_back() {
    let lab = start("rows").await;
    let mut is_kept = false;
    // The rest of the rows has a second to come. On a busy machine that may be too short, and the session is
    // replaced.
    for _ in 0..5 {
        let before = pid(&lab.db).await;
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        {
            let sql = "SELECT generate_series(1, 100000000)";
            let mut rows = sqlx::query_scalar::<_, i32>(sql).fetch(&mut tx);
            assert_eq!(rows.next().await.unwrap().unwrap(), 1);
        }
        drop(tx);
        let next = tokio::time::timeout(SOON, pid(&lab.db)).await;
        is_kept = next.expect("the connection came free") == before;
        until_none_is_open(&lab, "rows", "half read").await;
        assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 0);
        if is_kept {
            break;
        }
    }
    assert!(is_kept, "the session is never kept");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_transaction_dropped_where_a_statement_had_failed_is_rolled_back() {
    let lab = start("failed").await;
    let before = pid(&lab.db).await;
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
    sqlx::query("SELECT 1 / 0").execute(&mut tx).await.unwrap_err();
    drop(tx);
    check(&lab, "failed", before, "failed").await;
    assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 0);
    lab.engine.close().await;
}

/// Has each transaction that wrote to the table `slow` wait in its COMMIT.
const SLOW_COMMIT: &str = "CREATE TABLE slow (a int);
    CREATE FUNCTION wait_long() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER wait_long AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION wait_long()";

async fn until_commits(node: &Node, name: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' \
         AND state = 'active' AND query ILIKE 'COMMIT%'"
    );
    wait_until("it commits", async || ask::<i64>(node, &sql).await == 1).await;
}

#[tokio::test]
async fn a_commit_dropped_while_the_server_is_at_it_is_cancelled() {
    let lab = start("commit").await;
    lab.primary().execute(SLOW_COMMIT).await.unwrap();
    let before = pid(&lab.db).await;
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO slow VALUES (1)").execute(&mut tx).await.unwrap();
    let commit = tokio::spawn(tx.commit());
    until_commits(lab.primary(), "commit").await;
    commit.abort();
    check(&lab, "commit", before, "in the middle").await;
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM slow").await, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_commit_dropped_at_any_point_has_happened_or_not_and_the_session_serves_on() {
    let lab = start("points").await;
    let before = pid(&lab.db).await;
    for polls in 1..10 {
        let rows: i64 = ask(lab.primary(), COUNT).await;
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1), (2)").execute(&mut tx).await.unwrap();
        let committed = polled_at_most(polls, tx.commit()).await;
        check(&lab, "points", before, &format!("{polls} polls")).await;
        let now = ask::<i64>(lab.primary(), COUNT).await - rows;
        match committed {
            Some(result) => assert_eq!((result.is_ok(), now), (true, 2)),
            None => assert!(now == 0 || now == 2, "{now}"),
        }
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_rollback_dropped_at_any_point_has_happened() {
    let lab = start("rollback").await;
    let before = pid(&lab.db).await;
    for polls in 1..10 {
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        let _ = polled_at_most(polls, tx.rollback()).await;
        check(&lab, "rollback", before, &format!("{polls} polls")).await;
        assert_eq!(ask::<i64>(lab.primary(), COUNT).await, 0);
    }
    lab.engine.close().await;
}
