//! Everything of sqlx that takes an executor takes a handle, a lease, a transaction, a savepoint.

use flautino_lab::{Lab, ask};
use futures_util::{StreamExt, TryStreamExt};
use sqlx::{Either, Executor, Postgres, QueryBuilder, Row, SqlSafeStr, Statement};

#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Note {
    id: i32,
    title: String,
}

async fn start(name: &str) -> Lab {
    Lab::named(name).table("notes (id int PRIMARY KEY, title text NOT NULL)").start().await
}

#[tokio::test]
async fn each_way_to_run_a_query_works_through_a_handle() {
    let Lab { cluster, engine, db, .. } = start("ways").await;
    let mut insert = QueryBuilder::<Postgres>::new("INSERT INTO notes (id, title) ");
    insert.push_values([(1, "one"), (2, "two"), (3, "three")], |mut row, (id, title)| {
        row.push_bind(id).push_bind(title);
    });
    assert_eq!(insert.build().execute(&db).await.unwrap().rows_affected(), 3);
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM notes").await, 3);

    let sql = "SELECT id, title FROM notes WHERE id >= $1 ORDER BY id";
    let notes: Vec<Note> = sqlx::query_as(sql).bind(2).fetch_all(&db).await.unwrap();
    assert_eq!(notes[0], Note { id: 2, title: "two".to_owned() });
    assert_eq!(notes.len(), 2);
    let first: Note = sqlx::query_as(sql).bind(3).fetch_one(&db).await.unwrap();
    assert_eq!(first.title, "three");
    let none: Option<Note> = sqlx::query_as(sql).bind(9).fetch_optional(&db).await.unwrap();
    assert_eq!(none, None);
    let missing = sqlx::query_as::<_, Note>(sql).bind(9).fetch_one(&db).await;
    assert!(matches!(missing, Err(sqlx::Error::RowNotFound)));
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&db).await.unwrap();
    assert_eq!(count, 3);
    let streamed: Vec<Note> = sqlx::query_as(sql).bind(1).fetch(&db).try_collect().await.unwrap();
    assert_eq!(streamed.len(), 3);
    let titles = sqlx::query(sql).bind(1).map(|row: sqlx::postgres::PgRow| row.get::<String, _>(1));
    assert_eq!(titles.fetch_all(&db).await.unwrap(), ["one", "two", "three"]);
    let ids =
        sqlx::query(sql).bind(1).try_map(|row: sqlx::postgres::PgRow| row.try_get::<i32, _>(0));
    assert_eq!(ids.fetch_one(&db).await.unwrap(), 1);
    let wrong =
        sqlx::query(sql).bind(1).try_map(|row: sqlx::postgres::PgRow| row.try_get::<i64, _>(1));
    wrong.fetch_all(&db).await.unwrap_err();
    engine.close().await;
}

#[tokio::test]
async fn several_commands_prepared_statements_and_descriptions_work() {
    let lab = start("kinds").await;
    let several = sqlx::raw_sql("SELECT 1 AS a; INSERT INTO notes VALUES (1, 'x'); SELECT 2, 3");
    let mut results = several.fetch_many(&lab.db);
    let (mut rows, mut ends) = (Vec::new(), 0);
    while let Some(item) = results.next().await {
        match item.unwrap() {
            Either::Left(_) => ends += 1,
            Either::Right(row) => rows.push(row.get::<i32, _>(0)),
        }
    }
    drop(results);
    assert_eq!((rows.as_slice(), ends), ([1, 2].as_slice(), 3));

    let statement = (&lab.db).prepare("SELECT $1::int4 * 2".into_sql_str()).await.unwrap();
    assert_eq!(statement.columns().len(), 1);
    for _ in 0..3 {
        // Perhaps on another connection than the one it was prepared on.
        let _held = lab.db.acquire().await.unwrap();
        let row = statement.query().bind(21).fetch_one(&lab.db).await.unwrap();
        assert_eq!(row.get::<i32, _>(0), 42);
    }
    let described = (&lab.db).describe("SELECT id, title FROM notes".into_sql_str()).await.unwrap();
    assert_eq!(described.columns().len(), 2);
    (&lab.db).prepare("SELEC".into_sql_str()).await.unwrap_err();

    let unencodable = sqlx::query("SELECT $1").bind("nul \0 in text").execute(&lab.db).await;
    unencodable.unwrap_err();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&lab.db).await.unwrap();
    assert_eq!(one, 1);
    lab.engine.close().await;
}

async fn count<'e>(executor: impl Executor<'e, Database = Postgres>) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(executor).await.unwrap()
}

#[tokio::test]
async fn every_kind_of_executor_is_one() {
    let lab = start("executors").await;
    assert_eq!(count(&lab.db).await, 0);
    assert_eq!(count(&lab.db.clone()).await, 0);
    let mut lease = lab.db.acquire().await.unwrap();
    assert_eq!(count(&mut lease).await, 0);
    assert_eq!(count(&mut *lease).await, 0);
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("INSERT INTO notes VALUES (1, 'x')").execute(&mut tx).await.unwrap();
    assert_eq!(count(&mut tx).await, 1);
    assert_eq!(count(&mut *tx).await, 1);
    let mut savepoint = tx.savepoint().await.unwrap();
    sqlx::query("INSERT INTO notes VALUES (2, 'x')").execute(&mut savepoint).await.unwrap();
    assert_eq!(count(&mut savepoint).await, 2);
    savepoint.commit().await.unwrap();
    assert_eq!(count(&lab.db).await, 0);
    tx.commit().await.unwrap();
    assert_eq!(count(&mut lease).await, 2);
    drop(lease);

    // And each of them in a task of its own, whose future must be `Send`.
    let task = tokio::spawn(async move {
        let mut tx = lab.db.begin().await.unwrap();
        let mut savepoint = tx.savepoint().await.unwrap();
        let inside = count(&mut savepoint).await;
        savepoint.commit().await.unwrap();
        tx.commit().await.unwrap();
        let mut lease = lab.db.acquire().await.unwrap();
        let rows = sqlx::query("SELECT 1").fetch(&mut lease).try_collect::<Vec<_>>().await.unwrap();
        inside + i64::try_from(rows.len()).unwrap() + count(&lab.db).await
    });
    assert_eq!(task.await.unwrap(), 5);
    lab.engine.close().await;
}

#[tokio::test]
async fn copy_works_through_a_lease() {
    let Lab { cluster, engine, db, .. } = start("copy").await;
    let mut lease = db.acquire().await.unwrap();
    let mut copy = lease.copy_in_raw("COPY notes FROM STDIN").await.unwrap();
    copy.send("1\tone\n2\ttwo\n".as_bytes()).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 2);
    let sql = "COPY (SELECT id FROM notes ORDER BY id) TO STDOUT";
    let out = lease.copy_out_raw(sql).await.unwrap();
    let bytes: Vec<_> = out.try_collect().await.unwrap();
    assert_eq!(bytes.concat(), b"1\n2\n");
    drop(lease);
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM notes").await, 2);

    // One that is given up half-way stores nothing and hurts nobody.
    let mut lease = db.acquire().await.unwrap();
    let mut copy = lease.copy_in_raw("COPY notes FROM STDIN").await.unwrap();
    copy.send("3\tthree\n".as_bytes()).await.unwrap();
    drop(copy);
    drop(lease);
    assert_eq!(count(&db).await, 2);
    engine.close().await;
}
