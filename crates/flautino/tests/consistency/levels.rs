//! The other levels, and where they come from.

use flautino::{Consistency, RoutingMode};
use flautino_lab::{Lab, pause_replay, settings};

use crate::common::*;

#[tokio::test]
async fn eventual_may_read_the_past_after_an_own_write_and_strong_always_reads_the_primary() {
    let Lab { cluster, engine, .. } =
        Lab::named("levels").replicas(2).table("t (a int)").frozen().start().await;
    pause_replay(&cluster).await;
    let db = engine.handle();
    let (eventual, strong) =
        (db.with_consistency(Consistency::Eventual), db.with_consistency(Consistency::Strong));
    for round in 1..=5 {
        insert(&db, round).await;
        let past = read(&engine, &eventual, COUNT).await;
        assert_eq!((past.value, &*past.reason), (0, "no_floor"), "{past:?}");
        let truth = read(&engine, &strong, COUNT).await;
        assert_eq!((truth.value, &*truth.reason), (i64::from(round), "strong"), "{truth:?}");
    }
    let fresh = engine.handle().with_consistency(Consistency::Strong);
    assert_eq!(read(&engine, &fresh, COUNT).await.node, "main");
    assert_eq!(fresh.token().await, None, "it only read");
    engine.close().await;
}

#[tokio::test]
async fn a_level_on_one_handle_leaves_the_others_of_the_session_as_they_were() {
    let Lab { cluster, engine, .. } =
        Lab::named("one_handle").replicas(2).table("t (a int)").frozen().start().await;
    pause_replay(&cluster).await;
    let db = engine.handle();
    let eventual = db.with_consistency(Consistency::Eventual);
    let strong = eventual.with_consistency(Consistency::Strong);
    // What one of them writes counts for those that care.
    insert(&eventual, 1).await;
    assert_eq!(read(&engine, &db, COUNT).await.reason, "own_write");
    assert_eq!(read(&engine, &eventual, COUNT).await.reason, "no_floor");
    assert_eq!(read(&engine, &strong, COUNT).await.reason, "strong");
    assert_eq!(read(&engine, &eventual.clone(), COUNT).await.reason, "no_floor");
    assert_eq!(read(&engine, &eventual.primary(), COUNT).await.reason, "primary_chosen");
    assert_eq!(read(&engine, &db, COUNT).await.value, 1);
    let token = eventual.token().await.unwrap();
    assert_eq!(read(&engine, &with_token(&engine, token), COUNT).await.value, 1);
    engine.close().await;
}

#[tokio::test]
async fn a_chosen_replica_keeps_to_the_session_s_floor() {
    let Lab { cluster, engine, .. } =
        Lab::named("chosen").replicas(2).table("t (a int)").frozen().start().await;
    pause_replay(&cluster).await;
    let db = engine.handle();
    assert_eq!(read(&engine, &db.replica(), COUNT).await.reason, "replica_chosen");
    insert(&db, 1).await;
    let own = read(&engine, &db.replica(), COUNT).await;
    assert_eq!((own.value, &*own.node), (1, "main"), "{own:?}");
    let token = db.token().await.unwrap();
    let there = read(&engine, &with_token(&engine, token).replica(), COUNT).await;
    assert_eq!((there.value, &*there.reason), (1, "floor_ahead"), "{there:?}");
    engine.close().await;
}

#[tokio::test]
async fn the_configured_level_holds_where_a_handle_does_not_say() {
    let cluster = cluster_with_table(2).await;
    let mut engines = Vec::new();
    for level in [
        Consistency::Eventual,
        Consistency::ReadYourWrites,
        Consistency::Session,
        Consistency::Strong,
    ] {
        let engine = engine_with(&cluster, "configured", |config| {
            settings::frozen(config);
            config.routing.consistency = level;
        })
        .await;
        engines.push((level, engine));
    }
    pause_replay(&cluster).await;
    for (level, engine) in engines {
        let db = engine.handle();
        let before = read(&engine, &db, "SELECT 1::int8").await;
        let reasons = if level == Consistency::Strong { "strong" } else { "no_floor" };
        assert_eq!(before.reason, reasons, "{level:?}: {before:?}");
        insert(&db, 1).await;
        let after = read(&engine, &db, COUNT).await;
        assert_eq!(after.is_from_replica(), level == Consistency::Eventual, "{level:?}: {after:?}");
        // The handle has the last word.
        let other = db.with_consistency(Consistency::Eventual);
        assert_eq!(read(&engine, &other, COUNT).await.reason, "no_floor", "{level:?}");
        engine.close().await;
    }
}

#[tokio::test]
async fn a_process_in_primary_mode_hands_out_tokens_and_honours_them_like_the_others() {
    let cluster = cluster_with_table(1).await;
    let careful = engine_with(&cluster, "careful", |config| {
        settings::frozen(config);
        config.routing.mode = RoutingMode::Primary;
    })
    .await;
    let auto = frozen_engine(&cluster, "auto").await;
    pause_replay(&cluster).await;
    let db = careful.handle();
    assert_eq!(read(&careful, &db, COUNT).await.reason, "primary_mode");
    assert_eq!(db.token().await, None);
    insert(&db, 1).await;
    let token = db.token().await.unwrap();
    let there = read(&auto, &with_token(&auto, token), COUNT).await;
    assert_eq!((there.value, &*there.reason), (1, "floor_ahead"), "{there:?}");
    let back = with_token(&careful, token);
    assert_eq!(read(&careful, &back, COUNT).await.value, 1);
    assert_eq!(back.token().await, Some(token));
    careful.close().await;
    auto.close().await;
}
