//! Relations: joined, loaded afterwards, and by an entity's own loader. All of it from a replica.

use flautino_lab::Lab;
use flautino_sea_orm::Db;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, EntityTrait, JoinType, LoaderTrait, ModelTrait, QueryFilter,
    QueryOrder, QuerySelect, RelationTrait,
};

use crate::common::{bake, cake, cake_filling, filling, from_replica, fruit, with_replica};

/// `lemon` has two fruits and two fillings, `plum` one of each, `dry` nothing; one fruit is of no cake.
async fn start(name: &str) -> Lab {
    let lab = with_replica(name).start().await;
    bake(&lab, &["lemon", "plum", "dry"]).await;
    let db = Db::from(&lab.engine);
    let fruits = [("lemon", Some(1)), ("zest", Some(1)), ("plum", Some(2)), ("kiwi", None)];
    let fruits = fruits.map(|(name, cake_id)| fruit::ActiveModel {
        name: Set(name.to_owned()),
        cake_id: Set(cake_id),
        ..Default::default()
    });
    fruit::Entity::insert_many(fruits).exec(&db).await.unwrap();
    let fillings = ["cream", "jam"]
        .map(|name| filling::ActiveModel { name: Set(name.to_owned()), ..Default::default() });
    filling::Entity::insert_many(fillings).exec(&db).await.unwrap();
    let both = [(1, 1), (1, 2), (2, 2)].map(|(cake, filling)| cake_filling::ActiveModel {
        cake_id: Set(cake),
        filling_id: Set(filling),
    });
    cake_filling::Entity::insert_many(both).exec(&db).await.unwrap();
    lab
}

fn fruit_names(fruits: &[fruit::Model]) -> Vec<&str> {
    fruits.iter().map(|fruit| fruit.name.as_str()).collect()
}

#[tokio::test]
async fn related_rows_come_in_one_joined_statement() {
    let lab = start("joined").await;
    let with = from_replica(&lab, async |db| {
        let cakes = cake::Entity::find().order_by_asc(cake::Column::Id);
        let cakes = cakes.order_by_asc(fruit::Column::Id).find_with_related(fruit::Entity);
        cakes.all(db).await.unwrap()
    });
    let with = with.await;
    let fruits: Vec<_> = with.iter().map(|(cake, of)| (cake.id, fruit_names(of))).collect();
    assert_eq!(fruits, [(1, vec!["lemon", "zest"]), (2, vec!["plum"]), (3, vec![])]);

    let also = from_replica(&lab, async |db| {
        let fruits = fruit::Entity::find().order_by_asc(fruit::Column::Id);
        fruits.find_also_related(cake::Entity).all(db).await.unwrap()
    });
    let also = also.await;
    let cakes: Vec<_> = also.iter().map(|(_, cake)| cake.as_ref().map(|cake| cake.id)).collect();
    assert_eq!(cakes, [Some(1), Some(1), Some(2), None]);

    let names: Vec<String> = from_replica(&lab, async |db| {
        let cakes = cake::Entity::find().select_only().column(cake::Column::Name);
        let cakes = cakes.join(JoinType::InnerJoin, cake::Relation::Fruit.def());
        let of_plums = cakes.filter(fruit::Column::Name.eq("plum"));
        of_plums.into_tuple().all(db).await.unwrap()
    })
    .await;
    assert_eq!(names, ["plum"]);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_model_finds_what_is_related_to_it_also_through_a_junction() {
    let lab = start("of a model").await;
    let (fruits, fillings) = from_replica(&lab, async |db| {
        let lemon = cake::Entity::find_by_id(1).one(db).await.unwrap().unwrap();
        let fruits = lemon.find_related(fruit::Entity).all(db).await.unwrap();
        let fillings = lemon.find_related(filling::Entity).count_all(db).await;
        (fruits, fillings)
    })
    .await;
    assert_eq!((fruits.len(), fillings), (2, 2));
    lab.engine.close().await;
}

trait CountAll {
    async fn count_all(self, db: &Db) -> usize;
}

impl<E: EntityTrait> CountAll for sea_orm::Select<E> {
    async fn count_all(self, db: &Db) -> usize {
        self.all(db).await.unwrap().len()
    }
}

#[tokio::test]
async fn a_loader_finds_what_is_related_to_many_models() {
    let lab = start("loader").await;
    let (fruits, cakes, fillings) = from_replica(&lab, async |db| {
        let cakes = cake::Entity::find().order_by_asc(cake::Column::Id).all(db).await.unwrap();
        let fruits = cakes.load_many(fruit::Entity, db).await.unwrap();
        let all = fruit::Entity::find().order_by_asc(fruit::Column::Id).all(db).await.unwrap();
        let of = all.load_one(cake::Entity, db).await.unwrap();
        let fillings = cakes.load_many(filling::Entity, db).await.unwrap();
        (fruits, of, fillings)
    })
    .await;
    assert_eq!(fruits.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 0]);
    let cakes: Vec<_> = cakes.iter().map(|cake| cake.as_ref().map(|cake| cake.id)).collect();
    assert_eq!(cakes, [Some(1), Some(1), Some(2), None]);
    assert_eq!(fillings.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 0]);
    lab.engine.close().await;
}

#[tokio::test]
async fn an_entity_loader_brings_all_that_it_is_asked_for() {
    let lab = start("entity loader").await;
    let cakes = from_replica(&lab, async |db| {
        let cakes = cake::Entity::load().with(fruit::Entity).with(filling::Entity);
        cakes.order_by_asc(cake::Column::Id).all(db).await.unwrap()
    });
    let counts: Vec<_> =
        cakes.await.iter().map(|cake| (cake.fruits.len(), cake.fillings.len())).collect();
    assert_eq!(counts, [(2, 2), (1, 1), (0, 0)]);
    lab.engine.close().await;
}
