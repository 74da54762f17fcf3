//! Several tokens in one request: none of them makes another one count for less.

use flautino_lab::{bare, settings, summed, wait_until};

use crate::browser::{Browser, get, headers};
use crate::common::Pair;

/// Two tokens of ours, the older one first. The replicas have what the older one asks for, and lack
/// what the newer one does.
async fn old_and_new(pair: &Pair) -> [String; 2] {
    let browser = Browser::default();
    let new = browser.send(&pair.url(0, "set/a/1")).await.token().unwrap();
    let (head, place) = bare(&new).rsplit_once('.').unwrap();
    // Replicas had the cluster's first bytes at their latest probe for certain.
    let old = summed(&format!("{head}.{:x}", u64::from_str_radix(place, 16).unwrap() / 2));
    [old, new]
}

#[tokio::test]
async fn of_the_tokens_in_one_request_the_furthest_counts() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let client = reqwest::Client::new();
    let [old, new] = old_and_new(&pair).await;
    let sent = headers(&[("flautino-token", &old)]);
    let answer = get(&client, &pair.url(1, "value/a"), sent).await;
    assert!(answer.by_replica(), "the older token is met by replicas: {answer:?}");
    for [header, cookie, copy] in
        [[&old, &old, &new], [&old, &new, &old], [&new, &old, &old], [&new, &new, &old]]
    {
        let cookies = format!("flautino_token={cookie}; flautino_token_1={copy}");
        let sent = headers(&[("flautino-token", header), ("cookie", &cookies)]);
        let answer = get(&client, &pair.url(1, "value/a"), sent).await;
        answer.assert_value(1);
    }
    pair.stop().await;
}

/// Two apps with clusters of their own under one host name share its cookies, whatever their ports.
#[tokio::test]
async fn a_foreign_or_bad_token_beside_ours_never_makes_a_read_stale() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let client = reqwest::Client::new();
    let [old, new] = old_and_new(&pair).await;
    let (head, _) = bare(&new).rsplit_once('.').unwrap();
    let (system, _) = head.rsplit_once('.').unwrap();
    let foreign = format!("{system}.0.ffffffff");
    let others = ["1.1.1.1", "garbage", "1.until.1", &foreign].map(summed);
    for other in others.iter().map(String::as_str).chain(["1.1.1.1", "garbage"]) {
        let mut orders = Vec::new();
        for first in [&*old, &new, other] {
            for second in [&*old, &new, other] {
                for third in [&*old, &new, other] {
                    orders.push([first, second, third]);
                }
            }
        }
        for [one, two, three] in orders.into_iter().filter(|order| order.contains(&&*new)) {
            let copies =
                format!("flautino_token={one}; flautino_token_1={two}; flautino_token_2={three}");
            let answer =
                get(&client, &pair.url(1, "value/a"), headers(&[("cookie", &copies)])).await;
            assert_eq!((answer.status, &*answer.body), (200, "1"), "{copies}: {answer:?}");
            let cookies = format!("flautino_token={two}; flautino_token_1={three}");
            let sent = headers(&[("flautino-token", one), ("cookie", &cookies)]);
            let answer = get(&client, &pair.url(1, "value/a"), sent).await;
            assert_eq!((answer.status, &*answer.body), (200, "1"), "{one} {cookies}: {answer:?}");
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_client_with_good_and_bad_tokens_ends_with_good_ones_only() {
    let pair = Pair::start(settings::lively).await;
    let mut browser = Browser::default();
    browser.get(&pair.url(0, "set/a/1")).await;
    browser.cookies.push(("flautino_token_0".into(), summed("1.1.1.1")));
    browser.cookies.push(("flautino_token_1".into(), "garbage".into()));
    let answer = browser.get(&pair.url(1, "value/a")).await;
    answer.assert_value(1);
    assert_eq!(answer.served(), ("main".into(), "foreign_token".into()));
    assert_eq!(browser.cookies.len(), 2, "{:?}", browser.cookies);
    wait_until("a replica serves", async || {
        let answer = browser.get(&pair.url(1, "value/a")).await;
        answer.assert_value(1);
        answer.by_replica()
    })
    .await;
    pair.stop().await;
}
