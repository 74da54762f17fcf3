//! Tokens that are older, forged, foreign, of another timeline, from the future: never an error,
//! never a wait, never a stale answer, and the session is healed.

use flautino::{Engine, Token};
use flautino_cluster::Cluster;
use flautino_lab::{Lab, pause_replay, resume_replay};

use crate::common::*;

/// Replicas serve the past; the session of the token wrote the only row.
async fn start() -> (Cluster, Engine, Token) {
    let Lab { cluster, engine, .. } =
        Lab::named("odd").replicas(2).table("t (a int)").frozen().start().await;
    pause_replay(&cluster).await;
    let db = engine.handle();
    insert(&db, 1).await;
    let token = db.token().await.unwrap();
    (cluster, engine, token)
}

/// Such a token means the primary at once; answers the reason.
async fn reason_of(engine: &Engine, token: Token) -> String {
    let mut reasons = Vec::new();
    let db = with_token(engine, token);
    for _ in 0..3 {
        let read = read(engine, &db, COUNT).await;
        assert_eq!((read.value, &*read.node), (1, "main"), "{token}: {read:?}");
        assert!(read.took < NO_WAIT, "{token}: {read:?}");
        reasons.push(read.reason);
    }
    assert!(reasons.iter().all(|reason| *reason == reasons[0]), "{token}: {reasons:?}");
    reasons.remove(0)
}

/// Replicas can meet the session's next token.
async fn is_healed(cluster: &Cluster, engine: &Engine, odd: Token, sane: Token) {
    let db = with_token(engine, odd);
    read(engine, &db, COUNT).await;
    assert!(db.owes_token(), "a better token is owed for {odd}");
    let next = db.token().await.unwrap();
    let ((system, timeline, lsn), (own, newest, floor)) = (parts(next), parts(sane));
    assert_eq!((system, timeline), (own, newest), "{odd} became {next}");
    assert!((floor..floor + (1 << 24)).contains(&lsn), "{odd} became {next} beside {sane}");
    assert!(!db.owes_token(), "{odd}");
    // It covers at least what was there.
    assert_eq!(read(engine, &with_token(engine, next), COUNT).await.value, 1);
    resume_replay(cluster).await;
    catch_up_with_tokens(cluster).await;
    let fresh = frozen_engine(cluster, "fresh").await;
    let read = read(&fresh, &with_token(&fresh, next), COUNT).await;
    assert_eq!((read.value, &*read.reason), (1, "floor_met"), "{odd} became {next}: {read:?}");
    fresh.close().await;
}

#[tokio::test]
async fn an_older_token_is_met_by_replicas_that_have_it() {
    let (_cluster, engine, token) = start().await;
    let (system, timeline, _) = parts(token);
    for lsn in [0, 1, 0x100_0000] {
        let db = with_token(&engine, token_of((system, timeline, lsn)));
        let read = read(&engine, &db, COUNT).await;
        assert_eq!((read.value, &*read.reason), (0, "floor_met"), "{read:?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_token_a_little_ahead_of_the_primary_means_the_primary() {
    let (_cluster, engine, token) = start().await;
    let (system, timeline, lsn) = parts(token);
    for ahead in [1, 8192, 1 << 20, 1 << 25] {
        let reason = reason_of(&engine, token_of((system, timeline, lsn + ahead))).await;
        assert_eq!(reason, "floor_ahead", "{ahead} bytes ahead");
    }
    // A write makes it sane again.
    let db = with_token(&engine, token_of((system, timeline, lsn + (1 << 30))));
    insert(&db, 2).await;
    let next = parts(db.token().await.unwrap());
    assert!(next.2 > lsn && next.2 < lsn + (1 << 24), "{next:?}");
    engine.close().await;
}

#[tokio::test]
async fn a_token_absurdly_far_ahead_means_the_primary_and_is_replaced() {
    let (cluster, engine, token) = start().await;
    let (system, timeline, lsn) = parts(token);
    for far in [lsn + (5 << 30), u64::MAX - 1, u64::MAX] {
        let odd = token_of((system, timeline, far));
        assert_eq!(reason_of(&engine, odd).await, "foreign_token", "{odd}");
    }
    is_healed(&cluster, &engine, token_of((system, timeline, u64::MAX)), token).await;
    engine.close().await;
}

#[tokio::test]
async fn a_token_of_another_system_means_the_primary_and_is_replaced() {
    let (cluster, engine, token) = start().await;
    let (system, timeline, lsn) = parts(token);
    for (system, lsn) in [(system + 1, lsn), (0, 0), (u64::MAX, u64::MAX), (system - 1, 1)] {
        let odd = token_of((system, timeline, lsn));
        assert_eq!(reason_of(&engine, odd).await, "foreign_token", "{odd}");
    }
    is_healed(&cluster, &engine, token_of((system ^ 1, timeline, lsn)), token).await;
    engine.close().await;
}

#[tokio::test]
async fn a_token_of_an_older_timeline_means_the_primary_and_is_replaced() {
    let (cluster, engine, token) = start().await;
    let (system, timeline, lsn) = parts(token);
    assert_eq!(timeline, 1);
    for lsn in [0, lsn, u64::MAX] {
        assert_eq!(reason_of(&engine, token_of((system, 0, lsn))).await, "foreign_token");
    }
    is_healed(&cluster, &engine, token_of((system, 0, lsn)), token).await;
    engine.close().await;
}

#[tokio::test]
async fn a_token_of_a_later_timeline_means_the_primary() {
    let (_cluster, engine, token) = start().await;
    let (system, timeline, lsn) = parts(token);
    for (timeline, lsn) in [(timeline + 1, lsn), (timeline + 1, 0), (u64::from(u32::MAX), lsn)] {
        let odd = token_of((system, timeline, lsn));
        assert_eq!(reason_of(&engine, odd).await, "foreign_token", "{odd}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_token_of_an_absurdly_later_timeline_is_replaced() {
    let (cluster, engine, token) = start().await;
    let (system, _, lsn) = parts(token);
    let db = with_token(&engine, token_of((system, u64::from(u32::MAX), lsn)));
    assert_eq!(read(&engine, &db, COUNT).await.reason, "foreign_token");
    assert!(db.owes_token());
    // Time to notice the promotion that it may know of, and no longer.
    let next = db.token().await.unwrap();
    assert!(is_until(next), "{next}");
    engine.close().await;
    drop(cluster);
}

#[tokio::test]
async fn a_token_that_cannot_be_read_means_the_primary_until_there_is_a_new_one() {
    let (_cluster, engine, token) = start().await;
    let db = engine.handle();
    db.observe_unreadable();
    let read_1 = read(&engine, &db, COUNT).await;
    assert_eq!((read_1.value, &*read_1.reason), (1, "foreign_token"), "{read_1:?}");
    assert!(db.owes_token());
    let next = db.token().await.unwrap();
    assert!(parts(next) >= parts(token));
    assert!(!db.owes_token());
    let after = read(&engine, &db, COUNT).await;
    assert_eq!((after.value, &*after.node), (1, "main"), "{after:?}");
    engine.close().await;
}
