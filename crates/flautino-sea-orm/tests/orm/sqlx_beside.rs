//! Queries of sqlx beside those of SeaORM: through the same handle, and in the same transaction.

use flautino_sea_orm::{Db, Transaction};
use sea_orm::{ActiveModelTrait, EntityTrait, PaginatorTrait, TransactionTrait};

use crate::common::{alone, cake, new_cake, stored};

const INSERT: &str = "INSERT INTO cake (name) VALUES ($1)";
const COUNT: &str = "SELECT count(*) FROM cake";

#[tokio::test]
async fn a_handle_takes_both_and_has_all_that_flautino_s_own_has() {
    let lab = alone("both").start().await;
    let db = Db::from(lab.db.clone());
    sqlx::query(INSERT).bind("a").execute(&db).await.unwrap();
    new_cake("b").insert(&db).await.unwrap();
    let count: i64 = sqlx::query_scalar(COUNT).fetch_one(&db).await.unwrap();
    assert_eq!((count, cake::Entity::find().count(&db).await.unwrap()), (2, 2));
    let mut lease = db.acquire().await.unwrap();
    sqlx::query("SET work_mem = '1MB'").execute(&mut lease).await.unwrap();
    assert_eq!(db.served_by().as_deref(), Some("main"));
    drop(lease);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_transaction_takes_both() {
    let lab = alone("in one").start().await;
    let db = Db::from(&lab.engine);
    let tx = db.begin().await.unwrap();
    new_cake("a").insert(&tx).await.unwrap();
    sqlx::query(INSERT).bind("b").execute(&mut *tx.lock().await.unwrap()).await.unwrap();
    let nested = tx.begin().await.unwrap();
    sqlx::query(INSERT).bind("c").execute(&mut *nested.lock().await.unwrap()).await.unwrap();
    nested.rollback().await.unwrap();
    assert_eq!(cake::Entity::find().count(&tx).await.unwrap(), 2);
    tx.commit().await.unwrap();

    let mut begun = db.0.begin().await.unwrap();
    sqlx::query(INSERT).bind("d").execute(&mut begun).await.unwrap();
    let begun = Transaction::from(begun);
    new_cake("e").insert(&begun).await.unwrap();
    begun.commit().await.unwrap();
    assert_eq!(stored(&lab).await, "a,b,d,e");
    lab.engine.close().await;
}
