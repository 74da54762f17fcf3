//! Copies of the cookie do not pile up.

use flautino_lab::settings;
use futures_util::future::join_all;

use crate::browser::{Answer, Browser};
use crate::common::Pair;

#[tokio::test]
async fn a_client_that_writes_in_turn_has_two_cookies() {
    let pair = Pair::start(settings::lively).await;
    let mut browser = Browser::default();
    for round in 0..200 {
        browser.get(&pair.url(round, &format!("set/a/{round}"))).await;
        browser.get(&pair.url(round + 1, "value/a")).await;
        assert_eq!(browser.cookies.len(), 2, "round {round}: {:?}", browser.cookies);
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_client_has_no_more_cookies_than_writes_under_way_at_once() {
    let pair = Pair::start(settings::lively).await;
    for concurrency in [4_usize, 8] {
        let mut browser = Browser::default();
        let mut most = 0;
        for round in 0..40 {
            let sender = browser.clone();
            let writes = (0..concurrency).map(|key| {
                let url = pair.url(key, &format!("set/{key}/{round}"));
                let sender = &sender;
                async move { sender.send(&url).await }
            });
            let mut answers: Vec<Answer> = join_all(writes).await;
            fastrand::shuffle(&mut answers);
            for answer in &answers {
                assert_eq!(answer.status, 200);
                browser.take(answer);
            }
            most = most.max(browser.cookies.len());
            for key in 0..concurrency {
                let answer = browser.get(&pair.url(key + 1, &format!("value/{key}"))).await;
                answer.assert_value(round);
            }
        }
        // The cookie itself, and one for each write of the last round.
        assert!(most <= concurrency + 1, "{most} cookies with {concurrency} writes at once");
        browser.get(&pair.url(0, "set/a/1")).await;
        assert_eq!(browser.cookies.len(), 2, "{:?}", browser.cookies);
    }
    pair.stop().await;
}
