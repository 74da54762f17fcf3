//! A session sees what it wrote, whichever node serves it.

use flautino_lab::{catch_up, pause_replay, resume_replay, wait_until};
use flautino_sea_orm::Db;
use sea_orm::{ActiveModelTrait, EntityTrait, PaginatorTrait};

use crate::common::{PRIMARY, REPLICA, bake, cake, from_replica, new_cake, with_replica};

async fn count(db: &Db) -> u64 {
    cake::Entity::find().count(db).await.unwrap()
}

#[tokio::test]
async fn a_session_reads_its_own_write_at_once_and_others_the_past_until_it_is_replayed() {
    let lab = with_replica("own writes").frozen().start().await;
    bake(&lab, &["a"]).await;
    assert_eq!(from_replica(&lab, count).await, 1);
    pause_replay(&lab.cluster).await;

    let writer = Db::from(&lab.engine);
    new_cake("b").insert(&writer).await.unwrap();
    assert_eq!((count(&writer).await, flautino_lab::node_of(&writer).as_str()), (2, PRIMARY));
    let other = Db::from(&lab.engine);
    assert_eq!((count(&other).await, flautino_lab::node_of(&other).as_str()), (1, REPLICA));

    // A transaction's writes count from its commit on, and the token carries them elsewhere.
    let committer = Db::from(&lab.engine);
    let tx = committer.begin().await.unwrap();
    new_cake("c").insert(&tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(count(&committer).await, 3);
    let elsewhere = Db::from(&lab.engine);
    elsewhere.observe(&committer.token().await.unwrap());
    assert_eq!(count(&elsewhere).await, 3);

    resume_replay(&lab.cluster).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn the_writer_reads_from_the_replica_again_when_that_has_replayed_its_write() {
    let lab = with_replica("again").start().await;
    assert_eq!(from_replica(&lab, count).await, 0);
    let db = Db::from(&lab.engine);
    for written in 1..=5 {
        new_cake(&written.to_string()).insert(&db).await.unwrap();
        assert_eq!(count(&db).await, written);
        catch_up(&lab.cluster).await;
        wait_until("the replica serves the writer", async || {
            assert_eq!(count(&db).await, written);
            flautino_lab::node_of(&db) == REPLICA
        })
        .await;
    }
    lab.engine.close().await;
}
