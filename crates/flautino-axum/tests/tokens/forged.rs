//! Tokens that are none, or not ours: the primary answers at once, and the client gets a good one.

use std::time::{Duration, Instant};

use flautino_lab::{bare, settings, summed, wait_until};

use crate::browser::{Answer, Browser, get, headers};
use crate::common::Pair;

/// System, timeline and place of a token, as it prints them.
fn parts(token: &str) -> [&str; 3] {
    let fields: Vec<_> = bare(token).split('.').collect();
    assert_eq!((fields.len(), fields[0]), (4, "1"), "{token}");
    [fields[1], fields[2], fields[3]]
}

/// Tokens that only the primary can answer.
fn forged(real: &str) -> Vec<String> {
    let [system, timeline, place] = parts(real);
    let mut forged: Vec<String> = [
        "",
        "1",
        "garbage",
        "null",
        "1.2.3",
        "1.2.3.4.5",
        "~",
        "%00",
        "-1",
        "1.until",
        "1.until.x",
        "0",
        "\"1.1.1.1\"",
    ]
    .map(str::to_owned)
    .into();
    // Foreign systems, and ours on a timeline that is over.
    forged.push("1.1.1.1".into());
    forged.push(format!("1.ffffffffffffffff.{timeline}.{place}"));
    forged.push(format!("1.{system}.{timeline}"));
    forged.push(format!("1.{system}.0.{place}"));
    forged.push(format!("1.{system}.{timeline}.ffffffffffffffff"));
    forged.push(format!("1.{system}.{timeline}.10000000000000000"));
    forged.push(format!("2.{system}.{timeline}.{place}"));
    forged.push(real.replace('.', ""));
    forged.push(format!("{real}."));
    forged.push("f".repeat(8192));
    forged.push(format!("1.{system}.{timeline}.{}", "0".repeat(8192)));
    // With a checksum that is right, and without one.
    let summed = forged.iter().filter(|text| text.starts_with("1.")).map(|text| summed(text));
    forged.extend(summed.collect::<Vec<_>>());
    // Cut short.
    forged.push(real[..real.len() - 1].to_owned());
    forged.push(bare(real).to_owned());
    forged
}

/// The primary answered, with what is true now, and handed out a token of its own.
#[track_caller]
fn assert_healed(answer: &Answer, value: i64, real: &str, what: &str) {
    let what: String = what.chars().take(60).collect();
    assert_eq!((answer.status, &*answer.body), (200, &*value.to_string()), "{what}: {answer:?}");
    assert_eq!(answer.served(), ("main".into(), "foreign_token".into()), "{what}");
    let token = answer.token().unwrap_or_else(|| panic!("{what}: no token"));
    let [system, timeline, _] = parts(real);
    let [own_system, own_timeline, _] = parts(&token);
    assert_eq!((own_system, own_timeline), (system, timeline), "{what}");
}

#[tokio::test]
async fn a_bad_cookie_means_the_primary_once_and_then_replicas_again() {
    let pair = Pair::start(settings::lively).await;
    let real = Browser::default().get(&pair.url(0, "set/a/0")).await.token().unwrap();
    for (number, text) in forged(&real).iter().enumerate() {
        for name in ["flautino_token", "flautino_token_0123456789abcdef", "flautino_token_"] {
            let value = i64::try_from(number + 1).unwrap();
            let update = format!("UPDATE entries SET value = {value}");
            pair.cluster.primary().execute(&update).await.unwrap();
            let mut browser = Browser::default();
            browser.cookies.push((name.to_owned(), text.clone()));
            let started = Instant::now();
            let answer = browser.get(&pair.url(number, "value/a")).await;
            // Who waits for a connection does so for five seconds, for a primary ten.
            assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
            assert_healed(&answer, value, &real, text);
            assert_eq!(browser.cookies.len(), 2, "{text}: {:?}", browser.cookies);
            let answer = browser.get(&pair.url(number + 1, "value/a")).await;
            answer.assert_value(value);
            assert_ne!(answer.served().1, "foreign_token");
        }
        let mut browser = Browser::default();
        browser.cookies.push(("flautino_token".to_owned(), text.clone()));
        browser.get(&pair.url(number, "value/a")).await;
        wait_until("replicas serve the client again", async || {
            let answer = browser.get(&pair.url(number, "value/a")).await;
            answer.by_replica() && answer.token().is_none()
        })
        .await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_bad_header_means_the_primary_and_brings_a_good_one() {
    let pair = Pair::start(settings::lively).await;
    let client = reqwest::Client::new();
    let real = Browser::default().get(&pair.url(0, "set/a/0")).await.token().unwrap();
    for (number, text) in forged(&real).iter().enumerate() {
        let value = i64::try_from(number + 1).unwrap();
        let update = format!("UPDATE entries SET value = {value}");
        pair.cluster.primary().execute(&update).await.unwrap();
        let url = pair.url(number, "value/a");
        let answer = get(&client, &url, headers(&[("flautino-token", text)])).await;
        assert_healed(&answer, value, &real, text);
        let good = answer.token().unwrap();
        wait_until("replicas serve the client again", async || {
            let answer = get(&client, &url, headers(&[("flautino-token", &good)])).await;
            answer.assert_value(value);
            answer.by_replica() && answer.token().is_none()
        })
        .await;
    }
    pair.stop().await;
}

/// Such as a token whose end was cut off: it asks for less, and gets no less than that.
#[tokio::test]
async fn a_token_of_earlier_is_no_error_and_is_met_by_replicas() {
    let pair = Pair::start(settings::lively).await;
    let client = reqwest::Client::new();
    let real = Browser::default().get(&pair.url(0, "set/a/1")).await.token().unwrap();
    for replica in crate::common::replicas(&pair.cluster) {
        replica.catch_up_with(pair.cluster.primary()).await.unwrap();
    }
    let [_, _, place] = parts(&real);
    for cut in 0..place.len() {
        let real = bare(&real);
        let text = summed(&real[..real.len() - cut]);
        wait_until("a replica serves", async || {
            let sent = headers(&[("flautino-token", &text)]);
            let answer = get(&client, &pair.url(0, "value/a"), sent).await;
            answer.assert_value(1);
            answer.by_replica()
        })
        .await;
    }
    pair.stop().await;
}
