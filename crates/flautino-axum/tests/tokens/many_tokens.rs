//! More tokens in one request than anybody needs.

use std::time::{Duration, Instant};

use flautino_lab::{App, bare, catch_up, settings, summed, wait_until};

use crate::browser::{Browser, get, headers};
use crate::common::{Pair, app, engine, prepared, replicas};

/// Twenty tabs, or a page that saves twenty things at once: the answers come in any order, and the
/// cookie itself holds the token that came last.
#[tokio::test]
async fn after_twenty_writes_at_once_the_next_request_sees_them_all() {
    let cluster = prepared().await;
    let start = async || {
        let engine = engine(&cluster, settings::frozen).await;
        App::start(app(&engine), engine).await
    };
    let first = start().await;
    let before = Browser::default();
    let mut answers = Vec::new();
    for key in 0..19 {
        answers.push(before.send(&format!("{}/set/{key}/1", first.url)).await);
    }
    // Its replicas have all of these, and will not have the next one.
    catch_up(&cluster).await;
    let second = start().await;
    for replica in replicas(&cluster) {
        replica.pause_replay().await.unwrap();
    }
    answers.push(before.send(&format!("{}/set/19/1", second.url)).await);
    // The latest write's answer is the last but one to arrive.
    answers.swap(18, 19);
    let mut browser = before;
    for answer in &answers {
        browser.take(answer);
    }
    for key in (0..20).rev() {
        let answer = browser.get(&format!("{}/value/{key}", second.url)).await;
        answer.assert_value(1);
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn thousands_of_cookies_are_no_error_and_no_wait_and_never_stale() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let client = reqwest::Client::new();
    let written = get(&client, &pair.url(0, "set/a/1"), headers(&[])).await;
    let token = written.token().unwrap();
    let old = {
        let (head, _) = bare(&token).rsplit_once('.').unwrap();
        summed(&format!("{head}.1"))
    };
    for fill in ["garbage", &old, "1.1.1.1"] {
        let many: Vec<_> =
            (0..3000).map(|number| format!("flautino_token_{number:x}={fill}")).collect();
        let many = many.join("; ");
        for cookies in [
            format!("flautino_token={token}; {many}"),
            format!("{many}; flautino_token={token}"),
            format!("theme=dark; {many}; flautino_token={token}; lang=en"),
        ] {
            let started = Instant::now();
            let answer =
                get(&client, &pair.url(1, "value/a"), headers(&[("cookie", &cookies)])).await;
            println!("{} bytes of {fill}", cookies.len());
            answer.assert_value(1);
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_client_with_a_hundred_bad_copies_gets_rid_of_them() {
    let pair = Pair::start(settings::lively).await;
    let mut browser = Browser::default();
    for number in 0..100 {
        browser.cookies.push((format!("flautino_token_{number}"), "garbage".into()));
    }
    let mut requests = 0;
    while browser.cookies.len() > 2 {
        let answer = browser.get(&pair.url(requests, "value/a")).await;
        assert_eq!(answer.status, 200);
        requests += 1;
        assert!(requests <= 100, "{:?}", browser.cookies);
    }
    wait_until("a replica serves", async || {
        browser.get(&pair.url(0, "value/a")).await.by_replica()
    })
    .await;
    pair.stop().await;
}
