//! `Server-Timing` names the node that served, and why that one.

use flautino_lab::{settings, wait_until};

use crate::browser::{Browser, get, headers};
use crate::common::Pair;

#[tokio::test]
async fn a_response_names_the_replica_and_the_reason() {
    let pair = Pair::start(settings::lively).await;
    pair.pause().await;
    let mut browser = Browser::default();
    let answer = browser.get(&pair.url(0, "set/a/1")).await;
    assert_eq!(answer.served(), ("main".into(), "write".into()));
    let answer = browser.get(&pair.url(1, "value/a")).await;
    let (node, reason) = answer.served();
    assert!(node == "main" && ["floor_ahead", "lagging"].contains(&&*reason), "{answer:?}");
    pair.resume().await;
    for wanted in ["read_replica_1", "read_replica_2"] {
        wait_until("each replica serves", async || {
            let answer = browser.get(&pair.url(1, "value/a")).await;
            let (node, reason) = answer.served();
            node == wanted && reason == "floor_met"
        })
        .await;
    }
    let text = browser.get(&pair.url(0, "value/a")).await;
    let header = text.headers["server-timing"].to_str().unwrap();
    let (duration, _) = header.strip_prefix("db;dur=").unwrap().split_once(';').unwrap();
    assert!(duration.parse::<f64>().unwrap() > 0.0, "{header}");

    wait_until("replicas serve strangers too", async || {
        let stranger = Browser::default().get(&pair.url(0, "value/a")).await;
        stranger.by_replica() && stranger.served().1 == "no_floor"
    })
    .await;
    let sent = headers(&[("flautino-token", "garbage")]);
    let answer = get(&browser.client, &pair.url(0, "value/a"), sent).await;
    assert_eq!(answer.served(), ("main".into(), "foreign_token".into()));
    assert!(browser.get(&pair.url(0, "idle")).await.statements().is_empty());
    pair.stop().await;
}
