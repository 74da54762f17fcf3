//! Many rows in one insert, and conflicts.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveModelTrait, ActiveValue::Set, DbErr, EntityTrait, TryInsertResult};

use crate::common::{alone, bake, by_primary, cake, new_cake, stored, with_replica};

#[tokio::test]
async fn many_rows_are_inserted_in_one_statement() {
    let lab = with_replica("insert many").start().await;
    by_primary(&lab, async |db| {
        let last = cake::Entity::insert_many(["a", "b", "c"].map(new_cake)).exec(db).await.unwrap();
        assert_eq!(last.last_insert_id, Some(3));
        let models = cake::Entity::insert_many(["d", "e"].map(new_cake));
        let models = models.exec_with_returning(db).await.unwrap();
        assert_eq!(models.iter().map(|cake| cake.id).collect::<Vec<_>>(), [4, 5]);
        let none: [cake::ActiveModel; 0] = [];
        assert_eq!(cake::Entity::insert_many(none).exec(db).await.unwrap().last_insert_id, None);
        assert_eq!(flautino_lab::node_of(db), "main");
    })
    .await;
    assert_eq!(stored(&lab).await, "a,b,c,d,e");
    lab.engine.close().await;
}

#[tokio::test]
async fn more_rows_than_the_protocol_has_values_for_are_an_error_before_anything_is_sent() {
    let lab = alone("too many").start().await;
    let many = (0..70_000).map(|n| new_cake(&n.to_string()));
    let error = by_primary_or_nobody(&lab, many).await;
    assert!(error.to_string().contains("too many values"), "{error}");
    assert_eq!(stored(&lab).await, "");
    lab.engine.close().await;
}

async fn by_primary_or_nobody(
    lab: &flautino_lab::Lab,
    cakes: impl Iterator<Item = cake::ActiveModel>,
) -> DbErr {
    let db = flautino_sea_orm::Db::from(&lab.engine);
    cake::Entity::insert_many(cakes).exec_without_returning(&db).await.unwrap_err()
}

#[tokio::test]
async fn a_conflict_updates_or_does_nothing_as_the_insert_says() {
    let lab = with_replica("conflict").start().await;
    bake(&lab, &["a", "b"]).await;
    by_primary(&lab, async |db| {
        let named_anew =
            OnConflict::column(cake::Column::Id).update_column(cake::Column::Name).to_owned();
        let again = cake::ActiveModel { id: Set(1), name: Set("A".to_owned()) };
        let updated = cake::Entity::insert(again).on_conflict(named_anew);
        assert_eq!(updated.exec_with_returning(db).await.unwrap().name, "A");

        let nothing = OnConflict::column(cake::Column::Name).do_nothing().to_owned();
        let insert = cake::Entity::insert(new_cake("b")).on_conflict(nothing);
        assert_eq!(insert.exec(db).await.unwrap_err(), DbErr::RecordNotInserted);

        let insert = cake::Entity::insert_many(["b", "c"].map(new_cake));
        let insert = insert.on_conflict_do_nothing_on([cake::Column::Name]);
        let tried = insert.exec_without_returning(db).await.unwrap();
        assert!(matches!(tried, TryInsertResult::Inserted(1)), "{tried:?}");
        new_cake("d").insert(db).await.unwrap();
    })
    .await;
    assert_eq!(stored(&lab).await, "A,b,c,d");
    lab.engine.close().await;
}
