//! SeaORM's errors: what the server says, and what flautino says.

use std::time::{Duration, Instant};

use flautino::{DeadlineStep, Error};
use flautino_lab::sqlstate;
use flautino_sea_orm::{Db, error_of, sqlx_error_of};
use sea_orm::{ActiveModelTrait, ActiveValue::Set, ConnectionTrait, DbErr, EntityTrait, SqlErr};

use crate::common::{alone, bake, cake, fruit, new_cake};

#[tokio::test]
async fn violated_constraints_are_told_apart() {
    let lab = alone("constraints").start().await;
    bake(&lab, &["a"]).await;
    let db = Db::from(&lab.engine);
    let tx = db.begin().await.unwrap();
    for unique in [
        new_cake("a").insert(&db).await.unwrap_err(),
        cake::Entity::insert(new_cake("a")).exec_without_returning(&db).await.unwrap_err(),
        new_cake("a").insert(&tx).await.unwrap_err(),
    ] {
        assert!(
            matches!(unique.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))),
            "{unique:?}"
        );
        assert_eq!(sqlstate(sqlx_error_of(&unique).unwrap()), "23505");
    }
    let of_nothing = fruit::ActiveModel {
        name: Set("fig".to_owned()),
        cake_id: Set(Some(9)),
        ..Default::default()
    };
    let foreign = of_nothing.insert(&db).await.unwrap_err();
    assert!(
        matches!(foreign.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_))),
        "{foreign:?}"
    );
    lab.engine.close().await;
}

#[tokio::test]
async fn what_is_not_there_is_none_or_not_updated() {
    let lab = alone("missing").start().await;
    let db = Db::from(&lab.engine);
    assert!(cake::Entity::find_by_id(1).one(&db).await.unwrap().is_none());
    let missing = cake::ActiveModel { id: Set(1), name: Set("a".to_owned()) };
    assert_eq!(missing.update(&db).await.unwrap_err(), DbErr::RecordNotUpdated);
    lab.engine.close().await;
}

#[tokio::test]
async fn flautino_s_own_errors_are_found_inside() {
    let lab = alone("own").start().await;
    let db = Db::from(&lab.engine);
    let late = db.with_deadline(Instant::now() + Duration::from_millis(100));
    let error = late.execute_unprepared("SELECT pg_sleep(60)").await.unwrap_err();
    let step = DeadlineStep::Running;
    assert!(
        matches!(error_of(&error), Some(Error::DeadlineExceeded { step: s }) if *s == step),
        "{error:?}"
    );
    let error = db.execute_unprepared("BEGIN").await.unwrap_err();
    assert!(matches!(error_of(&error), Some(Error::TransactionControl { .. })), "{error:?}");
    assert!(matches!(error, DbErr::Exec(_)), "{error:?}");
    assert!(db.node("nobody").is_err());

    lab.engine.close().await;
    for error in [
        cake::Entity::find().all(&db).await.unwrap_err(),
        new_cake("a").insert(&db).await.unwrap_err(),
        db.begin().await.unwrap_err(),
    ] {
        assert!(matches!(error, DbErr::Conn(_)), "{error:?}");
        assert!(matches!(error_of(&error), Some(Error::Closed { .. })), "{error:?}");
    }
}
