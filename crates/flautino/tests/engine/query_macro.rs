//! `query!` and its kin, which reach an executor by other ways than `query`.

use flautino_lab::Lab;
use futures_util::TryStreamExt;

#[tokio::test]
async fn query_macros_take_a_handle_and_a_transaction() {
    let lab = Lab::named("query_macro").start().await;

    let next = || sqlx::query!(r#"SELECT $1::int4 + 1 AS "next!""#, 1);
    assert_eq!(next().fetch_one(&lab.db).await.unwrap().next, 2);
    assert_eq!(next().fetch_optional(&lab.db).await.unwrap().unwrap().next, 2);
    assert_eq!(next().fetch_all(&lab.db).await.unwrap().len(), 1);
    let streamed: Vec<_> = next().fetch(&lab.db).try_collect().await.unwrap();
    assert_eq!(streamed[0].next, 2);
    let scalar = sqlx::query_scalar!(r#"SELECT $1::int4 + 1 AS "next!""#, 41);
    assert_eq!(scalar.fetch_one(&lab.db).await.unwrap(), 42);

    let mut tx = lab.db.begin().await.unwrap();
    assert_eq!(next().fetch_one(&mut tx).await.unwrap().next, 2);
    tx.commit().await.unwrap();
}
