//! Which node SeaORM's statements go to.

use flautino::Consistency;
use flautino_lab::{node_of, status_of};
use flautino_sea_orm::Db;
use sea_orm::prelude::Expr;
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, PaginatorTrait, QuerySelect, Statement};

use crate::common::{PRIMARY, REPLICA, bake, cake, from_replica, session, stored, with_replica};

/// A function that writes, and one that does not.
const FUNCTIONS: &str = "
    CREATE FUNCTION bake(name text) RETURNS int LANGUAGE sql VOLATILE AS
        'INSERT INTO cake (name) VALUES ($1) RETURNING id';
    CREATE FUNCTION double(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1'";

#[tokio::test]
async fn a_select_that_writes_goes_to_the_primary_and_one_that_calls_what_does_not_to_a_replica() {
    let lab = with_replica("functions").sql(FUNCTIONS).start().await;
    bake(&lab, &["a"]).await;
    let doubled: Option<i32> = from_replica(&lab, async |db| {
        let select = cake::Entity::find().select_only().expr(Expr::cust("double(id)"));
        select.into_tuple().one(db).await.unwrap()
    })
    .await;
    assert_eq!(doubled, Some(2));

    let db = session(&lab);
    let select = cake::Entity::find().select_only().expr(Expr::cust("bake('from a select')"));
    let id: Option<i32> = select.into_tuple().one(&db).await.unwrap();
    assert_eq!((id, node_of(&db).as_str()), (Some(2), PRIMARY));
    let sql = "WITH new AS (INSERT INTO cake (name) VALUES ('from a CTE') RETURNING id) SELECT id FROM new";
    db.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    assert_eq!(node_of(&db), PRIMARY);
    assert_eq!(stored(&lab).await, "a,from a select,from a CTE");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_find_that_locks_goes_to_the_primary() {
    let lab = with_replica("locks").start().await;
    bake(&lab, &["a"]).await;
    from_replica(&lab, async |db| cake::Entity::find().one(db).await.unwrap()).await;
    let db = session(&lab);
    let tx = db.begin().await.unwrap();
    assert_eq!(cake::Entity::find().lock_exclusive().all(&tx).await.unwrap().len(), 1);
    tx.commit().await.unwrap();
    for db in [session(&lab), session(&lab)] {
        cake::Entity::find().lock_shared().one(&db).await.unwrap();
        assert_eq!(node_of(&db), PRIMARY);
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_handle_that_chooses_a_node_sends_seaorm_s_statements_there() {
    let lab = with_replica("choices").start().await;
    bake(&lab, &["a"]).await;
    let count = async |db: Db| {
        let count = cake::Entity::find().count(&db).await.unwrap();
        (count, node_of(&db))
    };
    let read = from_replica(&lab, async |db| cake::Entity::find().count(db).await.unwrap());
    assert_eq!(read.await, 1);
    let db = Db::from(&lab.engine);
    assert_eq!(count(db.primary()).await, (1, PRIMARY.to_owned()));
    assert_eq!(count(db.replica()).await, (1, REPLICA.to_owned()));
    assert_eq!(count(db.node(REPLICA).unwrap()).await, (1, REPLICA.to_owned()));
    assert_eq!(count(db.with_consistency(Consistency::Strong)).await, (1, PRIMARY.to_owned()));
    let eventual = db.with_consistency(Consistency::Eventual);
    assert_eq!(count(eventual).await, (1, REPLICA.to_owned()));
    lab.engine.close().await;
}

#[tokio::test]
async fn the_status_counts_what_went_where() {
    let lab = with_replica("counted").start().await;
    bake(&lab, &["a"]).await;
    from_replica(&lab, async |db| cake::Entity::find().all(db).await.unwrap()).await;
    let served = || {
        let of = |node| status_of(&lab.engine, node).statements;
        (of(PRIMARY), of(REPLICA))
    };
    let (writes, reads) = served();
    for n in 0..10 {
        let db = Db::from(&lab.engine);
        let found = cake::Entity::find().count(&db.replica()).await.unwrap();
        assert_eq!(found, 1 + n);
        let sql = format!("INSERT INTO cake (name) VALUES ('{n}')");
        db.execute_unprepared(&sql).await.unwrap();
        flautino_lab::catch_up(&lab.cluster).await;
    }
    let (writes_after, reads_after) = served();
    assert!(writes_after >= writes + 10 && reads_after >= reads + 10, "{:#?}", lab.engine.status());
    lab.engine.close().await;
}
