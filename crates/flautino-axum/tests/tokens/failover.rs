//! A token of the timeline before a failover: no stale answer, no error, and a new token.

use std::time::{Duration, Instant};

use flautino_lab::{ask, settings, wait_until};

use crate::browser::{Answer, Browser};
use crate::common::Pair;

/// No answer took long.
async fn at_once(browser: &mut Browser, url: &str) -> Answer {
    let started = Instant::now();
    let answer = browser.get(url).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?} {answer:?}", started.elapsed());
    answer
}

#[tokio::test]
async fn a_client_goes_through_a_failover_to_a_replica_that_lacks_its_write() {
    let pair = Pair::start(settings::lively).await;
    let cluster = &pair.cluster;
    let (primary, lagging, ahead) = (cluster.primary(), cluster.replica(0), cluster.replica(1));
    let mut browser = Browser::default();
    browser.get(&pair.url(0, "set/a/1")).await;
    lagging.catch_up_with(primary).await.unwrap();
    lagging.execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    lagging.execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("the replica is cut off", async || {
        ask::<i64>(lagging, "SELECT count(*) FROM pg_stat_wal_receiver").await == 0
    })
    .await;
    let written = browser.get(&pair.url(0, "set/a/2")).await;
    assert!(written.token().is_some());
    ahead.catch_up_with(primary).await.unwrap();
    for instance in 0..2 {
        wait_until("the other replica has the write", async || {
            let answer = browser.get(&pair.url(instance, "value/a")).await;
            answer.assert_value(2);
            answer.served().0 == "read_replica_2"
        })
        .await;
    }
    primary.kill().await.unwrap();
    // Whoever answers: the replica that has the write, or the new primary, whose word is the truth
    // from then on.
    let check = |answer: &Answer| match &*answer.served().0 {
        "read_replica_2" => answer.assert_value(2),
        "read_replica_1" => {
            answer.assert_value(1);
            assert_eq!(answer.served().1, "foreign_token", "{answer:?}");
        }
        node => panic!("{node} answered: {answer:?}"),
    };
    let mut waiting = browser.clone();
    for round in 0..20 {
        let answer = at_once(&mut waiting, &pair.url(round, "value/a")).await;
        answer.assert_value(2);
    }
    let promoted = tokio::join!(lagging.promote(), async {
        for round in 0..200 {
            // With the old token each time.
            check(&at_once(&mut browser.clone(), &pair.url(round, "value/a")).await);
        }
    });
    promoted.0.unwrap();
    for (instance, engine) in pair.engines.iter().enumerate() {
        wait_until("the new primary is known", async || {
            check(&at_once(&mut browser.clone(), &pair.url(instance, "value/a")).await);
            engine.status().primary.as_deref() == Some("read_replica_1")
        })
        .await;
    }
    // What the new primary alone has is seen with the old token.
    lagging.execute("UPDATE entries SET value = 10").await.unwrap();
    for instance in 0..2 {
        let mut old = browser.clone();
        let answer = at_once(&mut old, &pair.url(instance, "value/a")).await;
        answer.assert_value(10);
        assert_eq!(answer.served(), ("read_replica_1".into(), "foreign_token".into()));
        let token = answer.token().unwrap();
        assert_eq!(token.split('.').nth(2), Some("2"), "{token}");
        assert_eq!(old.cookies.len(), 2, "{:?}", old.cookies);
        let answer = at_once(&mut old, &pair.url(instance + 1, "value/a")).await;
        answer.assert_value(10);
        assert_eq!(answer.served().0, "read_replica_1");
        assert_eq!(answer.token(), None);
    }
    // It writes with its old token, and goes on.
    let answer = at_once(&mut browser, &pair.url(0, "set/a/11")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for instance in [1, 0] {
        at_once(&mut browser, &pair.url(instance, "value/a")).await.assert_value(11);
    }
    // The former primary comes back as a replica, and serves the client.
    lagging.execute("ALTER SYSTEM RESET primary_conninfo").await.unwrap();
    primary.rejoin(lagging).await.unwrap();
    for instance in 0..2 {
        wait_until("the former primary serves", async || {
            let answer = at_once(&mut browser, &pair.url(instance, "value/a")).await;
            answer.assert_value(11);
            let (node, reason) = answer.served();
            assert_ne!(node, "read_replica_2", "it is on the old timeline");
            (&*node, &*reason) == ("main", "floor_met")
        })
        .await;
    }
    pair.stop().await;
}
