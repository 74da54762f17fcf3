//! SeaORM's nested active models, whose `save` begins transactions of its own, one in the other.

use sea_orm::{EntityTrait, TransactionTrait};

use crate::common::{alone, cake, filling, fruit, stored};

/// A cake with what belongs to it.
fn lemon() -> cake::ActiveModelEx {
    cake::ActiveModel::builder()
        .set_name("lemon")
        .add_fruit(fruit::ActiveModel::builder().set_name("zest"))
        .add_filling(filling::ActiveModel::builder().set_name("cream"))
}

#[tokio::test]
async fn a_model_is_saved_with_all_that_belongs_to_it() {
    let lab = alone("nested models").start().await;
    let db = flautino_sea_orm::Db::from(&lab.engine);
    lemon().save(&db).await.unwrap();
    let cakes = cake::Entity::load().with(fruit::Entity).with(filling::Entity);
    let cakes = cakes.all(&db).await.unwrap();
    assert_eq!((cakes[0].fruits[0].name.as_str(), cakes[0].fillings[0].id), ("zest", 1));
    lab.engine.close().await;
}

#[tokio::test]
async fn in_a_transaction_all_of_it_is_rolled_back() {
    let lab = alone("nested in one").start().await;
    let db = flautino_sea_orm::Db::from(&lab.engine);
    let tx = TransactionTrait::begin(&db).await.unwrap();
    lemon().save(&tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(stored(&lab).await, "");
    assert!(fruit::Entity::find().one(&db).await.unwrap().is_none());
    lab.engine.close().await;
}

#[tokio::test]
async fn what_fails_half_way_leaves_nothing() {
    let lab = alone("half-way").sql("ALTER TABLE filling ADD CHECK (name <> 'sand')").start().await;
    let db = flautino_sea_orm::Db::from(&lab.engine);
    let with_sand = lemon().add_filling(filling::ActiveModel::builder().set_name("sand"));
    with_sand.save(&db).await.unwrap_err();
    assert_eq!(stored(&lab).await, "");
    assert!(fruit::Entity::find().one(&db).await.unwrap().is_none());
    lab.engine.close().await;
}
