//! What a select can be turned into: tuples, models of one's own, JSON, raw statements, counts.

use sea_orm::prelude::Expr;
use sea_orm::sea_query::ExprTrait;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DerivePartialModel, EntityTrait, FromQueryResult,
    PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, SelectExt, Statement,
};

use crate::common::{bake, cake, from_replica, with_replica};

#[derive(Debug, PartialEq, FromQueryResult)]
struct Initial {
    letter: String,
    cakes: i64,
}

#[derive(Debug, PartialEq, DerivePartialModel)]
#[sea_orm(entity = "cake::Entity")]
struct Named {
    name: String,
}

#[tokio::test]
async fn columns_become_tuples_models_of_ones_own_and_json() {
    let lab = with_replica("columns").start().await;
    bake(&lab, &["lemon", "lime", "plum"]).await;
    let (tuples, initials, named, json) = from_replica(&lab, async |db| {
        let select = cake::Entity::find().order_by_asc(cake::Column::Id);
        let tuples: Vec<(i32, String)> = select.clone().into_tuple().all(db).await.unwrap();
        let initials = cake::Entity::find().select_only();
        let initials = initials.expr_as(Expr::cust("left(name, 1)"), "letter");
        let initials = initials.column_as(cake::Column::Id.count(), "cakes");
        let initials = initials.group_by(Expr::cust("1")).order_by_asc(Expr::cust("1"));
        let initials = initials.into_model::<Initial>().all(db).await.unwrap();
        let named = select.clone().into_partial_model::<Named>().one(db).await.unwrap();
        let json = select.limit(1).into_json().all(db).await.unwrap();
        (tuples, initials, named, json)
    })
    .await;
    let all = [(1, "lemon"), (2, "lime"), (3, "plum")];
    assert_eq!(tuples, all.map(|(id, name)| (id, name.to_owned())));
    let initial = |letter: &str, cakes| Initial { letter: letter.to_owned(), cakes };
    assert_eq!(initials, [initial("l", 2), initial("p", 1)]);
    assert_eq!(named, Some(Named { name: "lemon".to_owned() }));
    assert_eq!(json, [serde_json::json!({ "id": 1, "name": "lemon" })]);
    lab.engine.close().await;
}

#[tokio::test]
async fn rows_are_counted_and_looked_for() {
    let lab = with_replica("counted").start().await;
    bake(&lab, &["lemon", "lime", "plum"]).await;
    let found = from_replica(&lab, async |db| {
        let count = cake::Entity::find().count(db).await.unwrap();
        let plum = cake::Entity::find().filter(cake::Column::Name.eq("plum"));
        let fig = cake::Entity::find().filter(cake::Column::Name.eq("fig"));
        (count, plum.exists(db).await.unwrap(), fig.exists(db).await.unwrap())
    });
    assert_eq!(found.await, (3, true, false));
    lab.engine.close().await;
}

#[tokio::test]
async fn raw_statements_take_values_and_fill_models() {
    let lab = with_replica("raw").start().await;
    bake(&lab, &["lemon", "lime", "plum"]).await;
    let (models, row, rows) = from_replica(&lab, async |db| {
        let sql = |text: &str, value: i32| {
            Statement::from_sql_and_values(DbBackend::Postgres, text, [value.into()])
        };
        let later = sql("SELECT * FROM cake WHERE id > $1 ORDER BY id", 1);
        let models = cake::Entity::find().from_raw_sql(later.clone()).all(db).await.unwrap();
        let row = db.query_one_raw(later.clone()).await.unwrap().unwrap();
        let name: String = row.try_get("", "name").unwrap();
        let none = db.query_one_raw(sql("SELECT * FROM cake WHERE id = $1", 9)).await.unwrap();
        assert!(none.is_none());
        (models, name, db.query_all_raw(later).await.unwrap().len())
    })
    .await;
    assert_eq!(models.iter().map(|cake| cake.id).collect::<Vec<_>>(), [2, 3]);
    assert_eq!((row.as_str(), rows), ("lime", 2));
    lab.engine.close().await;
}

#[tokio::test]
async fn a_text_of_several_commands_runs_unprepared() {
    let lab = with_replica("unprepared").start().await;
    let db = crate::common::session(&lab);
    let done = db.execute_unprepared(
        "INSERT INTO cake (name) VALUES ('a'); UPDATE cake SET name = 'b' WHERE name = 'a'",
    );
    assert_eq!(done.await.unwrap().rows_affected(), 2);
    let table = sea_orm::Schema::new(DbBackend::Postgres).create_table_from_entity(extra::Entity);
    db.execute(&table).await.unwrap();
    assert_eq!(crate::common::nodes(&db), ["main", "main"]);
    let size = from_replica(&lab, async |db| extra::Entity::find().count(db).await.unwrap_or(9));
    assert_eq!(size.await, 0);
    assert_eq!(crate::common::stored(&lab).await, "b");
    lab.engine.close().await;
}

/// A table that a schema statement makes.
mod extra {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "extra")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

#[tokio::test]
async fn a_query_builder_s_own_select_runs_too() {
    let lab = with_replica("builder").start().await;
    bake(&lab, &["lemon", "lime"]).await;
    let last: i32 = from_replica(&lab, async |db| {
        let select = sea_orm::sea_query::Query::select()
            .expr(Expr::col(cake::Column::Id).max())
            .from(cake::Entity)
            .to_owned();
        db.query_one(&select).await.unwrap().unwrap().try_get_by_index(0).unwrap()
    })
    .await;
    assert_eq!(last, 2);
    lab.engine.close().await;
}
