//! With keys, only what was signed with one of them is believed.

use flautino::EngineConfig;
use flautino_lab::{settings, wait_until};

use crate::browser::{Browser, get, headers};
use crate::common::Pair;

const KEY: &str = "a key of the test, long enough";

fn keyed(config: &mut EngineConfig) {
    settings::lively(config);
    config.routing.token_keys = vec![KEY.to_owned()];
}

#[tokio::test]
async fn a_signed_token_is_believed_and_met_by_replicas() {
    let pair = Pair::start(keyed).await;
    let mut browser = Browser::default();
    let token = browser.get(&pair.url(0, "set/a/1")).await.token().unwrap();
    let (_, signature) = token.split_once('~').unwrap();
    assert_eq!(signature.len(), 64, "{token}");
    for instance in 0..2 {
        wait_until("a replica has the write", async || {
            let answer = browser.get(&pair.url(instance, "value/a")).await;
            answer.assert_value(1);
            assert_eq!(answer.token(), None, "{answer:?}");
            answer.by_replica() && answer.served().1 == "floor_met"
        })
        .await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_unsigned_or_forged_token_means_the_primary_and_a_new_one() {
    let pair = Pair::start(keyed).await;
    let other = Pair::start(|config| {
        settings::lively(config);
        config.routing.token_keys = vec!["a key of another app".to_owned()];
    })
    .await;
    let client = reqwest::Client::new();
    let get_token = async |pair: &Pair| {
        get(&client, &pair.url(0, "set/a/1"), headers(&[])).await.token().unwrap()
    };
    let token = get_token(&pair).await;
    let (text, signature) = token.split_once('~').unwrap();
    let (head, _) = text.rsplit_once('.').unwrap();
    let foreign = get_token(&other).await;
    let (_, foreign_signature) = foreign.split_once('~').unwrap();
    for forged in [
        text.to_owned(),
        format!("{text}~"),
        format!("{text}~{}", &signature[..62]),
        format!("{text}~{}", &signature[..63]),
        format!("{text}~{signature}00"),
        format!("{text}~{signature}~{signature}"),
        format!("{text}~{}", "0".repeat(64)),
        format!("{text}~{foreign_signature}"),
        // Its signature is of another text: asks for less.
        format!("{head}.1~{signature}"),
        format!("{head}.1"),
        "1.until.1".to_owned(),
        foreign,
        "garbage".to_owned(),
        format!("~{signature}"),
        format!("{text}~{}", "ä".repeat(32)),
        "f".repeat(8192),
    ] {
        let sent = headers(&[("flautino-token", &forged)]);
        let answer = get(&client, &pair.url(1, "value/a"), sent).await;
        answer.assert_value(1);
        assert_eq!(answer.served(), ("main".into(), "foreign_token".into()), "{forged}");
        let healed = answer.token().unwrap();
        wait_until("a replica serves the client again", async || {
            let sent = headers(&[("flautino-token", &healed)]);
            let answer = get(&client, &pair.url(0, "value/a"), sent).await;
            answer.by_replica() && answer.token().is_none()
        })
        .await;
    }
    pair.stop().await;
    other.stop().await;
}
