//! What tokens cost: questions to servers, counted.

use flautino_lab::Lab;
use futures_util::future::join_all;

use crate::common::*;

#[tokio::test]
async fn reads_with_a_token_ask_nobody() {
    let lab = Lab::named("reads").replicas(2).table("t (a int)").frozen().start().await;
    let db = lab.engine.handle();
    insert(&db, 1).await;
    let token = db.token().await.unwrap();
    let before = token_probes(&lab.engine);
    for _ in 0..20 {
        let db = with_token(&lab.engine, token);
        for _ in 0..3 {
            assert_eq!(read(&lab.engine, &db, COUNT).await.value, 1);
        }
        assert_eq!(db.token().await, Some(token));
        assert!(!db.owes_token());
    }
    assert_eq!(token_probes(&lab.engine), before);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_session_that_writes_asks_once_at_the_most() {
    let lab = Lab::named("writes").replicas(2).table("t (a int)").frozen().start().await;
    for _ in 0..20 {
        let before = token_probes(&lab.engine);
        let db = lab.engine.handle();
        for value in 0..3 {
            insert(&db, value).await;
        }
        read(&lab.engine, &db, COUNT).await;
        let token = db.token().await.unwrap();
        // Asked again it says the same, and asks nobody.
        assert_eq!(db.token().await, Some(token));
        assert!(token_probes(&lab.engine) <= before + 1);
    }
    let status = lab.engine.status();
    assert_eq!(
        status.nodes[0].token_probes,
        token_probes(&lab.engine),
        "only the primary is asked"
    );
    lab.engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_at_once_share_their_questions() {
    const WRITERS: u32 = 64;
    const WRITES: u32 = 10;
    let lab = Lab::named("many").replicas(2).table("t (a int)").patient_probes().start().await;
    // Connections are there, as in an app that has run for a while.
    join_all((0..10).map(|_| async { lab.engine.handle().acquire().await.unwrap() })).await;
    let before = token_probes(&lab.engine);
    let writer = |number: u32| {
        let engine = lab.engine.clone();
        tokio::spawn(async move {
            for _ in 0..WRITES {
                let db = engine.handle();
                insert(&db, i32::try_from(number).unwrap()).await;
                let token = db.token().await.unwrap();
                assert!(!is_until(token), "{token}");
            }
        })
    };
    for done in join_all((0..WRITERS).map(writer)).await {
        done.unwrap();
    }
    let probes = token_probes(&lab.engine) - before;
    // Some twentieth of them; one each where they share nothing.
    assert!(probes * 4 <= u64::from(WRITERS * WRITES), "{probes} probes for 640 writes");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_replica_is_asked_over_the_connection_that_is_there() {
    let lab = Lab::named("same").replicas(1).table("t (a int)").frozen().start().await;
    let asker = async || -> i64 {
        let sql = "SELECT pid::int8 FROM pg_stat_activity \
                   WHERE application_name = 'same (flautino monitor)'";
        flautino_lab::ask(lab.cluster.replica(0), sql).await
    };
    let (before, probes) = (asker().await, token_probes(&lab.engine));
    for _ in 0..5 {
        let db = session(&lab.engine);
        assert!(read(&lab.engine, &db, COUNT).await.is_from_replica());
        assert!(db.token().await.is_some());
    }
    assert!(token_probes(&lab.engine) >= probes + 5, "it was asked");
    assert_eq!(asker().await, before);
    lab.engine.close().await;
}
