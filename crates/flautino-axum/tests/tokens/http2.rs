//! HTTP/2: tokens travel as over HTTP/1.

use axum::http::HeaderMap;
use flautino_lab::settings;
use futures_util::future::join_all;
use reqwest::Client;

use crate::browser::{Browser, get, headers};
use crate::common::Pair;

fn client() -> Client {
    Client::builder().http2_prior_knowledge().build().unwrap()
}

#[tokio::test]
async fn over_http2_a_client_with_its_cookies_sees_its_writes() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let mut browser = Browser { client: client(), ..Browser::default() };
    for round in 1..=20 {
        let value = i64::try_from(round).unwrap();
        let written = browser.get(&pair.url(round, &format!("set/a/{value}"))).await;
        assert_eq!((written.status, written.set_cookies().is_empty()), (200, false));
        browser.get(&pair.url(round + 1, "value/a")).await.assert_value(value);
        let stranger = get(&browser.client, &pair.url(round, "value/a"), HeaderMap::new()).await;
        stranger.assert_value(0);
    }
    pair.stop().await;
}

/// HTTP/2 lets a client send each cookie in a header of its own.
#[tokio::test]
async fn over_http2_cookies_may_come_in_crumbs() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let client = client();
    let token = get(&client, &pair.url(0, "set/a/1"), HeaderMap::new()).await.token().unwrap();
    let (head, _) = flautino_lab::bare(&token).rsplit_once('.').unwrap();
    let [old, new] = [
        format!("flautino_token={}", flautino_lab::summed(&format!("{head}.1"))),
        format!("flautino_token_1={token}"),
    ];
    for crumbs in [["theme=dark", &old, &new], [&new, &old, "theme=dark"]] {
        let pairs = crumbs.map(|crumb| ("cookie", crumb));
        get(&client, &pair.url(1, "value/a"), headers(&pairs)).await.assert_value(1);
    }
    pair.stop().await;
}

#[tokio::test]
async fn streams_of_one_connection_share_no_session() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let client = client();
    let one = |number: usize| {
        let (client, pair) = (&client, &pair);
        async move {
            let mut browser = Browser { client: client.clone(), ..Browser::default() };
            let key = format!("k{number}");
            if number.is_multiple_of(2) {
                browser.get(&pair.url(0, &format!("set/{key}/5"))).await;
                browser.get(&pair.url(0, &format!("value/{key}"))).await.assert_value(5);
            } else {
                let other = format!("value/k{}", number - 1);
                let answer = browser.get(&pair.url(0, &other)).await;
                answer.assert_value(0);
                assert_eq!((answer.token(), answer.by_replica()), (None, true));
            }
        }
    };
    join_all((0..40).map(one)).await;
    pair.stop().await;
}
