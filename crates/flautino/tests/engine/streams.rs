//! A result that is streamed comes as sqlx gives it: in its order, with what came before an error,
//! and its connection is free as soon as all of it has arrived.

use std::time::Duration;

use flautino_lab::{Lab, ask, sqlstate, until_sessions};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgQueryResult, PgRow};
use sqlx::{AssertSqlSafe, Either, Executor, Postgres, Row};

/// Results with an error at some place, or with none.
const RESULTS: [&str; 11] = [
    "SELECT 10 / (3 - n) FROM generate_series(1, 5) AS n",
    "SELECT 10 / (1 - n) FROM generate_series(1, 5) AS n",
    "SELECT 10 / (1500 - n) FROM generate_series(1, 2000) AS n",
    "SELECT n FROM generate_series(1, 300) AS n",
    "SELECT n FROM generate_series(1, 0) AS n",
    "SELECT length(repeat('x', 300000 * (n / n))), repeat('x', 300000) FROM generate_series(1, 5) AS n",
    "SELECT 1 / 0",
    "SELECT nothing",
    "INSERT INTO deferred VALUES (1), (1) RETURNING a",
    "SELECT n FROM generate_series(1, 3) AS n WHERE n < 3 OR stopped()",
    "INSERT INTO t SELECT 1 / (3 - n) FROM generate_series(1, 5) AS n RETURNING a",
];

/// Texts of several commands.
const SEVERAL: [&str; 7] = [
    "SELECT 1; SELECT 1 / 0",
    "SELECT 1; SELECT 2, 3; SELECT 1 / 0; SELECT 4",
    "INSERT INTO t VALUES (1), (2); SELECT count(*)::int FROM t; SELECT 1 / (a - 2) FROM t",
    "SELECT n FROM generate_series(1, 500) AS n; SELECT 10 / (300 - n) FROM generate_series(1, 500) AS n",
    "SELECT 1; COMMIT; SELECT 2; SELECT 1 / 0",
    "CREATE TABLE u (a int); INSERT INTO u VALUES (1); DROP TABLE u; SELECT 1 / 0",
    "",
];

/// A constraint that fails at the end of its transaction, and a function that fails as a timeout does.
const SCHEMA: &str = "
    CREATE TABLE deferred (a int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE FUNCTION stopped() RETURNS bool LANGUAGE plpgsql STABLE AS
        'BEGIN RAISE EXCEPTION USING ERRCODE = ''57014'', MESSAGE = ''stopped''; END'";

/// What came, in its order.
#[derive(Debug, PartialEq)]
enum Came {
    Row(i32),
    Done(u64),
    Failed(String),
}

type Items<'a> = BoxStream<'a, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>;

async fn all_of(items: Items<'_>) -> Vec<Came> {
    let told = items.map(|item| match item {
        Ok(Either::Left(done)) => Came::Done(done.rows_affected()),
        Ok(Either::Right(row)) => Came::Row(row.get(0)),
        Err(error) => Came::Failed(sqlstate(&error)),
    });
    told.collect().await
}

fn by<'e>(db: impl Executor<'e, Database = Postgres> + 'e, way: &str, sql: &str) -> Items<'e> {
    let sql = AssertSqlSafe(sql.to_owned());
    match way {
        "text" => db.fetch_many(sqlx::raw_sql(sql)),
        "query" => db.fetch_many(sqlx::query(sql)),
        "unprepared" => db.fetch_many(sqlx::query(sql).persistent(false)),
        _ => unreachable!(),
    }
}

/// Compares what comes through a handle, a lease and a transaction with what comes through a
/// connection of sqlx's.
async fn compare(lab: &Lab) {
    let mut connection = lab.primary().connect().await.unwrap();
    let of_results =
        RESULTS.iter().flat_map(|sql| ["text", "query", "unprepared"].map(|way| (sql, way)));
    for (sql, way) in of_results.chain(SEVERAL.iter().map(|sql| (sql, "text"))) {
        let fresh = async || lab.primary().execute("TRUNCATE t, deferred").await.unwrap();
        fresh().await;
        let expected = all_of(by(&mut connection, way, sql)).await;
        fresh().await;
        // A session of its own, so that replicas serve its reads.
        let db = lab.engine.handle();
        assert_eq!(all_of(by(&db, way, sql)).await, expected, "{way}: {sql}");
        fresh().await;
        let mut lease = lab.db.acquire().await.unwrap();
        assert_eq!(all_of(by(&mut lease, way, sql)).await, expected, "lease, {way}: {sql}");
        drop(lease);
        fresh().await;
        if !sql.contains("COMMIT") && !sql.contains("deferred") {
            let mut tx = lab.db.begin().await.unwrap();
            assert_eq!(all_of(by(&mut tx, way, sql)).await, expected, "tx, {way}: {sql}");
            tx.rollback().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_came_before_an_error_is_given_out_as_sqlx_does() {
    let lab = Lab::named("before").table("t (a int)").sql(SCHEMA).start().await;
    compare(&lab).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn so_it_is_where_statements_are_routed() {
    let lab = Lab::named("routed").replicas(1).table("t (a int)").sql(SCHEMA).start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    compare(&lab).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn a_stream_of_which_all_has_arrived_holds_no_connection() {
    let lab = Lab::named("early").one_connection().start().await;
    for sql in ["SELECT n FROM generate_series(1, 100) AS n", RESULTS[0]] {
        let mut rows = sqlx::query(sql).fetch(&lab.db);
        rows.next().await.unwrap().unwrap();
        // The only connection serves the next statement, and the rows are still there.
        sqlx::query("SELECT 1").execute(&lab.db).await.unwrap();
        rows.next().await.unwrap().unwrap();
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_row_that_is_not_awaited_to_its_arrival_comes_with_the_next_question() {
    let lab = Lab::named("asked").start().await;
    let sql = "SELECT n FROM generate_series(1, 4) AS n WHERE pg_sleep(n * 0.02) IS NOT NULL";
    let mut rows = sqlx::query_scalar::<_, i32>(sql).fetch(&lab.db);
    let mut came = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(3), rows.next()).await {
            Ok(Some(row)) => came.push(row.unwrap()),
            Ok(None) => break,
            Err(_) => {}
        }
    }
    assert_eq!(came, [1, 2, 3, 4]);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_half_way_frees_its_connection_and_the_server() {
    let lab = Lab::named("half").replicas(1).one_connection().start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    for sql in [
        "SELECT repeat('x', 9000) FROM generate_series(1, 1000000)",
        "SELECT repeat('x', 1000000) FROM generate_series(1, 1000)",
        "SELECT repeat('x', 9000), 1 / (1000 - n) FROM generate_series(1, 1000000) AS n",
    ] {
        for db in [lab.db.clone(), lab.db.primary()] {
            for taken in [1, 3, 200] {
                let rows = sqlx::query(sql).fetch(&db);
                let count = rows.take(taken).try_fold(0, async |count, _| Ok(count + 1)).await;
                assert_eq!(count.unwrap(), taken);
                let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&db).await.unwrap();
                assert_eq!(one, 1);
            }
        }
    }
    // In a transaction, whose statements before it stand.
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("CREATE TABLE kept (a int)").execute(&mut tx).await.unwrap();
    let mut rows = sqlx::query("SELECT n FROM generate_series(1, 100000) AS n").fetch(&mut tx);
    rows.next().await.unwrap().unwrap();
    drop(rows);
    sqlx::query("INSERT INTO kept VALUES (1)").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM kept").await, 1);
    lab.engine.close().await;
    until_sessions(lab.primary(), "half", 0).await;
}
