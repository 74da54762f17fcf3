//! Insert, find, update, save and delete of one entity.

use sea_orm::prelude::Expr;
use sea_orm::{
    ActiveModelTrait, ActiveValue::Set, ColumnTrait, EntityTrait, IntoActiveModel, ModelTrait,
    QueryFilter, QueryOrder,
};

use crate::common::{bake, by_primary, cake, from_replica, new_cake, stored, with_replica};

#[tokio::test]
async fn an_insert_returns_the_row_and_a_replica_finds_it() {
    let lab = with_replica("insert").start().await;
    let inserted = by_primary(&lab, async |db| new_cake("lemon").insert(db).await.unwrap()).await;
    assert_eq!(inserted, cake::Model { id: 1, name: "lemon".to_owned() });
    let found = from_replica(&lab, async |db| cake::Entity::find_by_id(1).one(db).await.unwrap());
    assert_eq!(found.await, Some(inserted));
    let missing = from_replica(&lab, async |db| cake::Entity::find_by_id(2).one(db).await.unwrap());
    assert_eq!(missing.await, None);
    lab.engine.close().await;
}

#[tokio::test]
async fn update_save_and_delete_change_the_row_on_the_primary() {
    let lab = with_replica("change").start().await;
    bake(&lab, &["lemon", "plum"]).await;
    let lemon = from_replica(&lab, async |db| cake::Entity::find_by_id(1).one(db).await.unwrap());
    let lemon = lemon.await.unwrap();
    by_primary(&lab, async |db| {
        let mut active = lemon.clone().into_active_model();
        active.name = Set("lime".to_owned());
        assert_eq!(active.update(db).await.unwrap().name, "lime");

        // `save` updates what has a primary key, and inserts what has none.
        let mut saved = new_cake("cherry").save(db).await.unwrap();
        assert_eq!(saved.id.as_ref(), &3);
        saved.name = Set("sour cherry".to_owned());
        saved.save(db).await.unwrap();

        let plum = cake::Entity::find_by_id(2).one(&db.primary()).await.unwrap().unwrap();
        assert_eq!(plum.delete(db).await.unwrap().rows_affected, 1);
        assert_eq!(cake::Entity::delete_by_id(9).exec(db).await.unwrap().rows_affected, 0);
    })
    .await;
    assert_eq!(stored(&lab).await, "lime,sour cherry");
    lab.engine.close().await;
}

#[tokio::test]
async fn many_rows_are_updated_and_deleted_at_once_also_with_returning() {
    let lab = with_replica("many").start().await;
    bake(&lab, &["a", "b", "c", "d"]).await;
    by_primary(&lab, async |db| {
        let update = cake::Entity::update_many()
            .col_expr(cake::Column::Name, Expr::cust("name || '!'"))
            .filter(cake::Column::Id.gt(2));
        let mut changed = update.clone().exec_with_returning(db).await.unwrap();
        changed.sort_by_key(|cake| cake.id);
        let names: Vec<_> = changed.iter().map(|cake| cake.name.as_str()).collect();
        assert_eq!(names, ["c!", "d!"]);
        assert_eq!(update.exec(db).await.unwrap().rows_affected, 2);

        let gone = cake::Entity::delete_many().filter(cake::Column::Id.lt(3));
        assert_eq!(gone.exec(db).await.unwrap().rows_affected, 2);
    })
    .await;
    let left = from_replica(&lab, async |db| {
        cake::Entity::find().order_by_desc(cake::Column::Id).all(db).await.unwrap()
    });
    let left: Vec<_> = left.await.into_iter().map(|cake| cake.name).collect();
    assert_eq!(left, ["d!!", "c!!"]);
    lab.engine.close().await;
}
