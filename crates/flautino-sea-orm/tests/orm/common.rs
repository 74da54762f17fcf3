//! What the tests of this binary share: entities, a cluster that has their tables, reads that a replica serves.

use flautino_lab::{Lab, LabBuilder, ask, catch_up, wait_until_or_tell};
use flautino_sea_orm::Db;
use sea_orm::{ActiveValue::Set, EntityTrait};

pub(crate) const PRIMARY: &str = "main";
pub(crate) const REPLICA: &str = "read_replica_1";

/// A cake has fruits, and any number of fillings by way of `cake_filling`.
pub(crate) mod cake {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, serde::Serialize)]
    #[sea_orm(table_name = "cake")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        #[sea_orm(unique)]
        pub name: String,
        #[sea_orm(has_many)]
        #[serde(skip)]
        pub fruits: HasMany<super::fruit::Entity>,
        #[sea_orm(has_many, via = "cake_filling")]
        #[serde(skip)]
        pub fillings: HasMany<super::filling::Entity>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod fruit {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "fruit")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        pub name: String,
        pub cake_id: Option<i32>,
        #[sea_orm(belongs_to, from = "cake_id", to = "id")]
        pub cake: BelongsTo<Option<super::cake::Entity>>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod filling {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "filling")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        pub name: String,
        #[sea_orm(has_many, via = "cake_filling")]
        pub cakes: HasMany<super::cake::Entity>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod cake_filling {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "cake_filling")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub cake_id: i32,
        #[sea_orm(primary_key, auto_increment = false)]
        pub filling_id: i32,
        #[sea_orm(belongs_to, from = "cake_id", to = "id")]
        pub cake: BelongsTo<super::cake::Entity>,
        #[sea_orm(belongs_to, from = "filling_id", to = "id")]
        pub filling: BelongsTo<super::filling::Entity>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The entities' tables.
const TABLES: &str = "
    CREATE TABLE cake (id serial PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE TABLE fruit (id serial PRIMARY KEY, name text NOT NULL, cake_id int REFERENCES cake);
    CREATE TABLE filling (id serial PRIMARY KEY, name text NOT NULL);
    CREATE TABLE cake_filling (cake_id int REFERENCES cake, filling_id int REFERENCES filling,
                               PRIMARY KEY (cake_id, filling_id))";

/// One server with the tables.
pub(crate) fn alone(name: &str) -> LabBuilder<'_> {
    Lab::named(name).sql(TABLES).patient_probes()
}

/// A primary and a replica with the tables.
pub(crate) fn with_replica(name: &str) -> LabBuilder<'_> {
    alone(name).replicas(1)
}

/// A session that notes where its statements go.
pub(crate) fn session(lab: &Lab) -> Db {
    Db(lab.engine.handle().recorded())
}

/// The nodes of the session's statements, in their order.
pub(crate) fn nodes(db: &Db) -> Vec<String> {
    db.timings().iter().map(|timing| timing.node.to_string()).collect()
}

/// What these reads find in a session all of whose statements a replica has served. The replica has replayed all
/// that was written before.
pub(crate) async fn from_replica<T>(lab: &Lab, reads: impl AsyncFn(&Db) -> T) -> T {
    catch_up(&lab.cluster).await;
    let mut found = None;
    let served = async || {
        let db = session(lab);
        found = Some(reads(&db).await);
        let nodes = nodes(&db);
        !nodes.is_empty() && nodes.iter().all(|node| node == REPLICA)
    };
    let tell = || format!("{:#?}", lab.engine.status());
    wait_until_or_tell("the replica serves all reads", served, tell).await;
    found.unwrap()
}

/// Writes by way of a session, all of whose statements the primary has to serve.
pub(crate) async fn by_primary<T>(lab: &Lab, writes: impl AsyncFnOnce(&Db) -> T) -> T {
    let db = session(lab);
    let done = writes(&db).await;
    let nodes = nodes(&db);
    assert!(!nodes.is_empty() && nodes.iter().all(|node| node == PRIMARY), "{nodes:?}");
    done
}

/// Cakes of these names, with ids from 1.
pub(crate) async fn bake(lab: &Lab, names: &[&str]) {
    let cakes = names
        .iter()
        .map(|name| cake::ActiveModel { name: Set((*name).to_owned()), ..Default::default() });
    cake::Entity::insert_many(cakes).exec(&Db::from(&lab.engine)).await.unwrap();
}

/// The names of the cakes, as any other client of the primary sees them.
pub(crate) async fn stored(lab: &Lab) -> String {
    let sql = "SELECT coalesce(string_agg(name, ',' ORDER BY id), '') FROM cake";
    ask(lab.primary(), sql).await
}

/// A cake that is to be inserted.
pub(crate) fn new_cake(name: &str) -> cake::ActiveModel {
    cake::ActiveModel { name: Set(name.to_owned()), ..Default::default() }
}
