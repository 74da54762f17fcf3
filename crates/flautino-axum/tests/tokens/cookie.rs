//! A client with cookies sees its writes at every instance, whatever the replicas lack.

use flautino_lab::{settings, wait_until};

use crate::browser::Browser;
use crate::common::Pair;

#[tokio::test]
async fn a_client_with_its_cookies_sees_its_writes_and_one_without_may_read_the_past() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let mut browser = Browser::default();
    for round in 1..=40 {
        let (here, there) = (round, round + 1);
        let value = i64::try_from(round).unwrap();
        let written = browser.get(&pair.url(here, &format!("set/a/{value}"))).await;
        assert_eq!(written.status, 200);
        for instance in [there, here] {
            let answer = browser.get(&pair.url(instance, "value/a")).await;
            answer.assert_value(value);
            assert_eq!(answer.served(), ("main".into(), "floor_ahead".into()));
        }
        // The same client after it dropped its cookies.
        let answer = Browser::default().get(&pair.url(there, "value/a")).await;
        answer.assert_value(0);
        assert!(answer.by_replica(), "{answer:?}");
        assert_eq!(answer.served().1, "no_floor");
    }
    pair.stop().await;
}

#[tokio::test]
async fn replicas_that_come_and_go_never_show_a_client_its_past() {
    let pair = Pair::start(settings::lively).await;
    let mut browser = Browser::default();
    let (mut paused, mut by_replica, mut by_primary) = (false, 0, 0);
    for round in 1..=300 {
        if fastrand::u32(..8) == 0 {
            if paused {
                pair.resume().await;
            } else {
                pair.pause().await;
            }
            paused = !paused;
        }
        let value = i64::try_from(round).unwrap();
        if round % 3 == 0 {
            let path = format!("set-in-transaction/a/{value}/200");
            assert_eq!(browser.get(&pair.url(round, &path)).await.status, 200);
        } else {
            let path = format!("set/a/{value}");
            assert_eq!(browser.get(&pair.url(round, &path)).await.status, 200);
        }
        for read in 0..6 {
            let answer = browser.get(&pair.url(round + 1 + read, "value/a")).await;
            answer.assert_value(value);
            if answer.by_replica() {
                assert_eq!(answer.served().1, "floor_met");
                by_replica += 1;
            } else {
                by_primary += 1;
            }
        }
    }
    assert!(by_primary > 0, "the replicas were never behind, so nothing was shown");
    if paused {
        pair.resume().await;
    }
    wait_until("a replica shows the write", async || {
        let answer = browser.get(&pair.url(0, "value/a")).await;
        answer.assert_value(300);
        answer.by_replica()
    })
    .await;
    println!("{by_replica} reads by replicas, {by_primary} by the primary");
    pair.stop().await;
}
