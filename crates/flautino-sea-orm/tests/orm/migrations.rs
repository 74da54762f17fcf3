//! SeaORM's migrations.
#![allow(elided_lifetimes_in_paths, reason = "as SeaORM's own examples have it")]

use flautino::Consistency;
use flautino_lab::{Lab, ask, pause_replay, resume_replay, wait_until};
use flautino_sea_orm::{Db, migrate};
use futures_util::future::join_all;
use sea_orm::{EntityTrait, PaginatorTrait};
use sea_orm_migration::prelude::*;

use crate::common::cake;

struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(Cakes), Box::new(First)]
    }
}

struct Cakes;

impl MigrationName for Cakes {
    fn name(&self) -> &str {
        "1_cakes"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Cakes {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = sea_orm::Schema::new(manager.get_database_backend());
        manager.create_table(table.create_table_from_entity(cake::Entity)).await
    }
}

struct First;

impl MigrationName for First {
    fn name(&self) -> &str {
        "2_first"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let insert = "INSERT INTO cake (name) VALUES ('first')";
        manager.get_connection().execute_unprepared(insert).await.map(drop)
    }
}

#[tokio::test]
async fn they_run_on_the_primary_once_for_instances_that_start_at_a_time() {
    let lab = Lab::named("migrate").start().await;
    let engines = join_all((0..4).map(|_| lab.another())).await;
    let runs =
        engines.iter().map(|engine| migrate(engine, async |db| Migrator::up(db, None).await));
    for run in join_all(runs).await {
        run.unwrap();
    }
    assert_eq!(cake::Entity::find().count(&Db::from(&lab.engine)).await.unwrap(), 1);
    assert_eq!(ask::<i64>(lab.primary(), "SELECT count(*) FROM seaql_migrations").await, 2);
    wait_until("no lock is left", async || {
        ask::<i64>(lab.primary(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await
            == 0
    })
    .await;
    for engine in engines.into_iter().chain([lab.engine]) {
        engine.close().await;
    }
}

#[tokio::test]
async fn all_sessions_see_them_while_the_replica_has_not_replayed_them() {
    let lab = Lab::named("seen").replicas(1).frozen().start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    pause_replay(&lab.cluster).await;
    migrate(&lab.engine, async |db| Migrator::up(db, None).await).await.unwrap();
    let db = Db::from(&lab.engine);
    assert_eq!(cake::Entity::find().count(&db).await.unwrap(), 1);
    let past = db.with_consistency(Consistency::Eventual).replica();
    cake::Entity::find().count(&past).await.unwrap_err(); // the replica has no such table
    resume_replay(&lab.cluster).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn the_error_of_one_that_fails_is_returned_and_the_lock_given_up() {
    let lab = Lab::named("fails").start().await;
    let failed = migrate(&lab.engine, async |db| {
        use sea_orm::ConnectionTrait;
        db.execute_unprepared("SELECT nothing").await.map(drop)
    });
    failed.await.unwrap_err();
    let engine = lab.engine.clone();
    let spawned = async move { migrate(&engine, async |db| Migrator::up(db, None).await).await };
    tokio::spawn(spawned).await.unwrap().unwrap();
    lab.engine.close().await;
    let closed = migrate(&lab.engine, async |_| Ok(())).await.unwrap_err();
    assert!(closed.to_string().contains("closed"), "{closed}");
}
