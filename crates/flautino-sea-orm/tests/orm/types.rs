//! Values of PostgreSQL's types, there and back, and read from a replica.

use flautino_lab::Lab;
use sea_orm::prelude::{DateTimeWithTimeZone, Json, Uuid};
use sea_orm::{ActiveModelTrait, ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter};

use crate::common::{by_primary, from_replica};

mod sample {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
    #[sea_orm(rs_type = "String", db_type = "Enum", enum_name = "mood")]
    pub enum Mood {
        #[sea_orm(string_value = "calm")]
        Calm,
        #[sea_orm(string_value = "wild")]
        Wild,
    }

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "sample")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub mood: Mood,
        pub moods: Vec<Mood>,
        #[sea_orm(column_type = "JsonBinary")]
        pub data: Json,
        pub words: Vec<String>,
        pub at: DateTimeWithTimeZone,
        pub ratio: Option<f64>,
        pub bytes: Vec<u8>,
        pub small: i16,
        pub big: i64,
        pub yes: bool,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

const TABLE: &str = "
    CREATE TYPE mood AS ENUM ('calm', 'wild');
    CREATE TABLE sample (id uuid PRIMARY KEY, mood mood NOT NULL, moods mood[] NOT NULL, data jsonb NOT NULL,
        words text[] NOT NULL, at timestamptz NOT NULL, ratio float8, bytes bytea NOT NULL, small int2 NOT NULL,
        big int8 NOT NULL, yes bool NOT NULL)";

#[tokio::test]
async fn values_of_many_types_come_back_as_they_were() {
    let lab = Lab::named("types").replicas(1).sql(TABLE).patient_probes().start().await;
    let at: DateTimeWithTimeZone = "2026-11-29T12:30:00.000001+02:00".parse().unwrap();
    let model = sample::Model {
        id: Uuid::from_u128(7),
        mood: sample::Mood::Wild,
        moods: vec![sample::Mood::Calm, sample::Mood::Wild],
        data: Json::from(vec![1, 2, 3]),
        words: vec!["a".to_owned(), "b'\"\\".to_owned()],
        at,
        ratio: None,
        bytes: vec![0, 255],
        small: i16::MIN,
        big: i64::MAX,
        yes: true,
    };
    let inserted = by_primary(&lab, async |db| {
        let active = sample::ActiveModel { ratio: Set(Some(0.25)), ..model.clone().into() };
        active.reset_all().insert(db).await.unwrap()
    })
    .await;
    let expected = sample::Model { ratio: Some(0.25), ..model };
    assert_eq!(inserted, expected);
    let found = from_replica(&lab, async |db| {
        let wild = sample::Entity::find().filter(sample::Column::Mood.eq(sample::Mood::Wild));
        let wild = wild.filter(sample::Column::At.eq(at));
        wild.filter(sample::Column::Id.is_in([Uuid::from_u128(7)])).all(db).await.unwrap()
    });
    assert_eq!(found.await, [expected]);
    lab.engine.close().await;
}
