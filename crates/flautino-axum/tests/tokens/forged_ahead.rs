//! Tokens that look possible, and would keep a client at the primary.

use std::time::Duration;

use flautino_lab::{bare, settings, summed, wait_until};

use crate::browser::{Browser, get, headers};
use crate::common::Pair;

fn ahead(real: &str, bytes: u64) -> String {
    let (head, place) = bare(real).rsplit_once('.').unwrap();
    summed(&format!("{head}.{:x}", u64::from_str_radix(place, 16).unwrap() + bytes))
}

async fn assert_heals(forge: impl Fn(&str) -> String) {
    let pair = Pair::start(|config| {
        settings::lively(config);
        config.routing.max_lag = Duration::from_secs(3);
        config.routing.token_window = Duration::from_secs(3);
    })
    .await;
    let real = Browser::default().get(&pair.url(0, "set/a/1")).await.token().unwrap();
    let mut browser = Browser::default();
    browser.cookies.push(("flautino_token".into(), forge(&real)));
    wait_until("the client gets a good token, and replicas serve it again", async || {
        let answer = browser.get(&pair.url(0, "value/a")).await;
        answer.assert_value(1);
        answer.by_replica()
    })
    .await;
    pair.stop().await;
}

#[tokio::test]
async fn a_token_a_terabyte_ahead_is_replaced() {
    assert_heals(|real| ahead(real, 1 << 40)).await;
}

#[tokio::test]
async fn a_token_a_gigabyte_ahead_is_replaced() {
    assert_heals(|real| ahead(real, 1 << 30)).await;
}

#[tokio::test]
async fn a_token_that_asks_for_the_primary_for_ever_is_replaced() {
    assert_heals(|_| summed(&format!("1.until.{:x}", u64::MAX))).await;
}

/// It may be of a promotion that is not known here yet, but not for ever.
#[tokio::test]
async fn a_token_of_a_later_timeline_is_replaced() {
    assert_heals(|real| {
        let fields: Vec<_> = real.split('.').collect();
        summed(&format!("1.{}.7.{}", fields[1], fields[3]))
    })
    .await;
}

#[tokio::test]
async fn whatever_lies_ahead_a_write_brings_the_client_back() {
    let pair = Pair::start(settings::lively).await;
    let client = reqwest::Client::new();
    let real = Browser::default().get(&pair.url(0, "set/a/1")).await.token().unwrap();
    for (value, forged) in (2..).zip([
        ahead(&real, 1 << 20),
        ahead(&real, 1 << 40),
        summed("1.until.ffffffffffffffff"),
    ]) {
        let sent = headers(&[("flautino-token", &forged)]);
        let answer = get(&client, &pair.url(0, "value/a"), sent.clone()).await;
        assert_eq!((answer.status, &*answer.served().0), (200, "main"), "{forged}: {answer:?}");
        let answer = get(&client, &pair.url(0, &format!("set/a/{value}")), sent).await;
        let token = answer.token().unwrap();
        assert_ne!(token, forged);
        wait_until("a replica serves", async || {
            let sent = headers(&[("flautino-token", &token)]);
            let answer = get(&client, &pair.url(1, "value/a"), sent).await;
            answer.assert_value(value);
            answer.by_replica()
        })
        .await;
    }
    pair.stop().await;
}
