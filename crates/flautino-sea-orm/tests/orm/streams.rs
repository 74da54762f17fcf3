//! Rows as they come: not all at once, from where reads go, and given up when the stream is dropped.

use flautino_lab::{catch_up, node_of, running, wait_until};
use flautino_sea_orm::Db;
use futures_util::{StreamExt, TryStreamExt};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, DbBackend, EntityTrait, QueryFilter, QueryOrder, Statement,
    StreamTrait, TransactionTrait,
};

use crate::common::{alone, bake, cake, from_replica, new_cake, stored, with_replica};

/// More than any buffer between server and client holds.
const LARGE: &str = "SELECT repeat('x', 100000) AS text FROM generate_series(1, 4000)";

fn large() -> Statement {
    Statement::from_string(DbBackend::Postgres, LARGE)
}

#[tokio::test]
async fn a_find_is_streamed_from_a_replica() {
    let lab = with_replica("stream").start().await;
    bake(&lab, &["a", "b", "c"]).await;
    let ids = from_replica(&lab, async |db| {
        let cakes = cake::Entity::find().filter(cake::Column::Id.gt(1));
        let cakes = cakes.order_by_asc(cake::Column::Id).stream(db).await.unwrap();
        cakes.map_ok(|cake| cake.id).try_collect::<Vec<_>>().await.unwrap()
    });
    assert_eq!(ids.await, [2, 3]);
    lab.engine.close().await;
}

#[tokio::test]
async fn rows_come_while_the_server_still_sends_and_a_dropped_stream_ends_the_statement() {
    let lab = alone("rows").start().await;
    let db = Db::from(&lab.engine);
    let tx = db.begin().await.unwrap();
    for in_transaction in [false, true] {
        let rows = if in_transaction { tx.stream_raw(large()) } else { db.stream_raw(large()) };
        let mut rows = rows.await.unwrap();
        for _ in 0..3 {
            let text: String = rows.next().await.unwrap().unwrap().try_get("", "text").unwrap();
            assert_eq!(text.len(), 100_000);
        }
        assert_eq!(running(lab.primary(), "rows", LARGE).await, 1, "in one: {in_transaction}");
        drop(rows);
        if !in_transaction {
            wait_until("the statement is cancelled", async || {
                running(lab.primary(), "rows", LARGE).await == 0
            })
            .await;
        }
    }
    tx.rollback().await.unwrap();
    wait_until("nothing runs", async || running(lab.primary(), "rows", LARGE).await == 0).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn an_error_ends_the_stream_after_the_rows_before_it() {
    let lab = alone("error").start().await;
    let db = Db::from(&lab.engine);
    let sql = "SELECT 10 / (3 - n) AS a FROM generate_series(1, 5) AS n";
    let rows = db.stream_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    let came: Vec<_> =
        rows.map(|row| row.and_then(|row| row.try_get::<i32>("", "a"))).collect().await;
    assert_eq!(came.len(), 3);
    assert_eq!(came[..2], [Ok(5), Ok(10)]);
    let error = came[2].as_ref().unwrap_err();
    assert!(error.to_string().contains("division by zero"), "{error}");
    lab.engine.close().await;
}

#[tokio::test]
async fn in_a_transaction_it_sees_what_the_transaction_wrote_also_in_a_closure() {
    let lab = with_replica("in a closure").start().await;
    catch_up(&lab.cluster).await;
    let db = Db::from(&lab.engine);
    let names = db.transaction::<_, _, sea_orm::DbErr>(|tx| {
        Box::pin(async move {
            new_cake("a").insert(tx).await?;
            let nested = TransactionTrait::begin(tx).await?;
            new_cake("b").insert(&nested).await?;
            let cakes = cake::Entity::find().order_by_asc(cake::Column::Id).stream(&nested).await?;
            let names: Vec<_> = cakes.map_ok(|cake| cake.name).try_collect().await?;
            nested.commit().await?;
            Ok(names)
        })
    });
    assert_eq!(names.await.unwrap(), ["a", "b"]);
    assert_eq!(stored(&lab).await, "a,b");
    assert_eq!(node_of(&db), "main");
    lab.engine.close().await;
}
