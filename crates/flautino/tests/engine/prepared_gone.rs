//! Prepared statements that somebody dropped from a session, while sqlx counts on them.

use flautino::Handle;
use flautino_lab::{Lab, pid};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Executor, Postgres, Row};

/// Commands that drop them all.
const DROPS: [&str; 7] = [
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "deallocate /* them */ Prepare all",
    "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",
    "DO $$ BEGIN EXECUTE 'deallocate ' || (SELECT min(name) FROM pg_prepared_statements); END $$",
    "SELECT forget()",
    "CALL forget_too()",
];

#[derive(Debug, Clone, Copy)]
enum Way {
    Handle,
    Raw,
    Several,
    Stream,
    /// A stream that is dropped before its end.
    HalfStream,
    Lease,
    Bare,
    Transaction,
    BareTransaction,
}

const WAYS: [Way; 9] = [
    Way::Handle,
    Way::Raw,
    Way::Several,
    Way::Stream,
    Way::HalfStream,
    Way::Lease,
    Way::Bare,
    Way::Transaction,
    Way::BareTransaction,
];

async fn start(name: &str) -> Lab {
    Lab::named(name)
        .sql(
            "CREATE FUNCTION forget() RETURNS int LANGUAGE plpgsql AS \
             $$ BEGIN EXECUTE 'DEALLOCATE ALL'; RETURN 1; END $$",
        )
        .sql(
            "CREATE PROCEDURE forget_too() LANGUAGE plpgsql AS \
             $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",
        )
        .one_connection()
        .start()
        .await
}

async fn known<'c>(db: impl Executor<'c, Database = Postgres>) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT $1::int4").bind(7).fetch_one(db).await
}

/// Whether the command runs in a transaction.
fn may(sql: &str, way: Way) -> bool {
    let in_transaction = matches!(way, Way::Transaction | Way::BareTransaction | Way::Several);
    !(in_transaction && sql.starts_with("DISCARD"))
}

/// Whether the text of the command itself shows what it does.
fn shows(sql: &str) -> bool {
    !sql.contains("forget")
}

async fn drop_all(db: &Handle, way: Way, sql: &'static str) -> Result<(), sqlx::Error> {
    match way {
        Way::Handle => sqlx::query(sql).execute(db).await.map(drop),
        Way::Raw => sqlx::raw_sql(sql).execute(db).await.map(drop),
        Way::Several => {
            let several = AssertSqlSafe(format!("SELECT 1; {sql}; SELECT 2"));
            sqlx::raw_sql(several).execute(db).await.map(drop)
        }
        Way::Stream => db.fetch_many(sqlx::query(sql)).try_collect::<Vec<_>>().await.map(drop),
        Way::HalfStream => db.fetch_many(sqlx::query(sql)).try_next().await.map(drop),
        Way::Lease => {
            let mut lease = db.acquire().await?;
            known(&mut lease).await?;
            sqlx::query(sql).execute(&mut lease).await?;
            assert_eq!(known(&mut lease).await?, 7);
            Ok(())
        }
        Way::Bare => {
            let mut lease = db.acquire().await?;
            known(&mut *lease).await?;
            sqlx::query(sql).execute(&mut *lease).await?;
            assert_eq!(known(&mut lease).await?, 7);
            Ok(())
        }
        Way::Transaction => {
            let mut tx = db.begin().await?;
            known(&mut tx).await?;
            sqlx::query(sql).execute(&mut tx).await?;
            if shows(sql) {
                assert_eq!(known(&mut tx).await?, 7);
            }
            tx.commit().await
        }
        Way::BareTransaction => {
            let mut tx = db.begin().await?;
            sqlx::query(sql).execute(&mut *tx).await?;
            tx.commit().await
        }
    }
}

#[tokio::test]
async fn all_that_is_used_afterwards_is_prepared_anew() {
    let Lab { cluster: _cluster, engine, db, .. } = start("gone").await;
    for sql in DROPS {
        for way in WAYS {
            if !may(sql, way) {
                continue;
            }
            for round in 0..3 {
                assert_eq!(known(&db).await.unwrap(), 7);
                drop_all(&db, way, sql)
                    .await
                    .unwrap_or_else(|error| panic!("{way:?}, {sql}, {round}: {error}"));
                for _ in 0..2 {
                    let answer = known(&db).await;
                    assert_eq!(answer.unwrap_or_else(|e| panic!("{way:?}, {sql}: {e}")), 7);
                }
            }
        }
    }
    engine.close().await;
}

#[tokio::test]
async fn one_that_is_dropped_by_its_name_is_prepared_anew() {
    let Lab { cluster: _cluster, engine, db, .. } = start("by_name").await;
    let names = "SELECT name FROM pg_prepared_statements WHERE statement = 'SELECT $1::int4'";
    for quoted in [false, true] {
        assert_eq!(known(&db).await.unwrap(), 7);
        let name: String = sqlx::raw_sql(names).fetch_one(&db).await.unwrap().get(0);
        let name = if quoted { format!("\"{name}\"") } else { name };
        let sql = AssertSqlSafe(format!("DEALLOCATE {name}"));
        sqlx::query(sql).execute(&db).await.unwrap();
        assert_eq!(known(&db).await.unwrap(), 7);
    }
    engine.close().await;
}

#[tokio::test]
async fn a_transaction_that_meets_one_fails_once_and_the_next_one_succeeds() {
    let Lab { cluster: _cluster, engine, db, .. } = start("once").await;
    let mut tx = db.begin().await.unwrap();
    known(&mut tx).await.unwrap();
    sqlx::query("SELECT forget()").execute(&mut tx).await.unwrap();
    assert_eq!(flautino_lab::sqlstate(&known(&mut tx).await.unwrap_err()), "26000");
    tx.rollback().await.unwrap();
    let mut tx = db.begin().await.unwrap();
    assert_eq!(known(&mut tx).await.unwrap(), 7);
    tx.commit().await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn the_connection_is_kept_and_its_statements_of_the_user_s_own_run_once() {
    let Lab { cluster, engine, db, .. } = start("kept").await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let insert = async || sqlx::query("INSERT INTO t VALUES ($1)").bind(1).execute(&db).await;
    let before = pid(&db).await;
    for rows in 1..=5_i64 {
        insert().await.unwrap();
        sqlx::query("SELECT forget()").execute(&db).await.unwrap();
        let count = flautino_lab::ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await;
        assert_eq!(count, rows);
    }
    assert_eq!(pid(&db).await, before);
    // One of the user's own that is missing is the user's error.
    let error = sqlx::raw_sql("EXECUTE mine").execute(&db).await.unwrap_err();
    assert_eq!(flautino_lab::sqlstate(&error), "26000");
    engine.close().await;
}
