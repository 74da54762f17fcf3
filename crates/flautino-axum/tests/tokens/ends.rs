//! However the request that wrote ends: what is stored is seen, what is not is no trouble.

use flautino_lab::{settings, wait_until};

use crate::browser::Browser;
use crate::common::Pair;

#[tokio::test]
async fn whatever_the_response_a_client_sees_what_was_stored() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    for (path, status, value) in [
        ("set-and-answer/a/1/404", 404, 1),
        ("set-and-answer/a/2/422", 422, 2),
        ("set-and-answer/a/3/500", 500, 3),
        ("set-and-answer/a/4/304", 304, 4),
        ("set-and-panic/a/5", 500, 5),
        ("set-in-transaction/a/6/200", 200, 6),
        ("set-in-transaction/a/7/303", 303, 7),
        // Rolled back.
        ("set-in-transaction/a/8/409", 409, 7),
        ("set-in-transaction/a/9/500", 500, 7),
        ("refused", 500, 7),
    ] {
        let mut browser = Browser::default();
        let written = browser.get(&pair.url(0, path)).await;
        assert_eq!(written.status, status, "{path}");
        let stored = !path.ends_with("/409") && !path.ends_with("in-transaction/a/9/500");
        if stored && path != "refused" {
            assert!(written.token().is_some(), "{path}: {written:?}");
        }
        for instance in [1, 0] {
            let answer = browser.get(&pair.url(instance, "value/a")).await;
            let fresh = answer.body == value.to_string();
            // Who wrote nothing may be shown the past, but no more than that.
            let nothing = written.token().is_none() && answer.body == "0";
            assert!(answer.status == 200 && (fresh || nothing), "{path}: {answer:?}");
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_commit_is_covered_by_the_token_while_replicas_replay() {
    let pair = Pair::start(settings::lively).await;
    let mut browser = Browser::default();
    let mut by_replica = 0;
    for round in 1..=150 {
        let value = i64::try_from(round).unwrap();
        let path = format!("set-in-transaction/a/{value}/200");
        let written = browser.get(&pair.url(round, &path)).await;
        assert!(written.token().is_some());
        for read in 0..8 {
            let answer = browser.get(&pair.url(round + read, "value/a")).await;
            answer.assert_value(value);
            by_replica += usize::from(answer.by_replica());
        }
    }
    println!("{by_replica} of 1200 reads by replicas");
    pair.stop().await;
}

#[tokio::test]
async fn after_a_failed_write_the_client_is_served_by_replicas_again() {
    let pair = Pair::start(settings::lively).await;
    for path in ["refused", "set-in-transaction/b/1/409", "set-and-panic/b/2"] {
        let mut browser = Browser::default();
        browser.get(&pair.url(0, path)).await;
        for instance in 0..2 {
            wait_until("a replica serves", async || {
                let answer = browser.get(&pair.url(instance, "value/b")).await;
                assert_eq!(answer.status, 200, "{path}");
                answer.by_replica()
            })
            .await;
        }
    }
    pair.stop().await;
}
