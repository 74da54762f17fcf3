//! A client without cookies brings the header along, and sees its writes too.

use axum::http::HeaderMap;
use flautino_lab::{settings, wait_until};
use reqwest::Client;

use crate::browser::{Answer, get, headers};
use crate::common::Pair;

/// Keeps the token that it was given last.
#[derive(Default)]
struct Service {
    client: Client,
    token: Option<String>,
}

impl Service {
    async fn get(&mut self, url: &str) -> Answer {
        let sent = match &self.token {
            Some(token) => headers(&[("flautino-token", token)]),
            None => HeaderMap::new(),
        };
        let answer = get(&self.client, url, sent).await;
        if let Some(token) = answer.token() {
            self.token = Some(token);
        }
        answer
    }
}

#[tokio::test]
async fn a_client_that_sends_the_header_sees_its_writes_and_one_without_may_read_the_past() {
    let pair = Pair::start(settings::frozen).await;
    pair.pause().await;
    let mut service = Service::default();
    for round in 1..=40 {
        let value = i64::try_from(round).unwrap();
        service.get(&pair.url(round, &format!("set/a/{value}"))).await;
        for instance in [round + 1, round] {
            let answer = service.get(&pair.url(instance, "value/a")).await;
            answer.assert_value(value);
            assert_eq!(answer.served(), ("main".into(), "floor_ahead".into()));
        }
        let answer = Service::default().get(&pair.url(round + 1, "value/a")).await;
        answer.assert_value(0);
        assert!(answer.by_replica(), "{answer:?}");
    }
    pair.stop().await;
}

#[tokio::test]
async fn with_the_header_too_replicas_that_come_and_go_show_no_past() {
    let pair = Pair::start(settings::lively).await;
    let mut service = Service::default();
    let mut paused = false;
    for round in 1..=200 {
        if fastrand::u32(..8) == 0 {
            if paused {
                pair.resume().await;
            } else {
                pair.pause().await;
            }
            paused = !paused;
        }
        let value = i64::try_from(round).unwrap();
        service.get(&pair.url(round, &format!("set/a/{value}"))).await;
        for read in 0..4 {
            let answer = service.get(&pair.url(round + 1 + read, "value/a")).await;
            answer.assert_value(value);
        }
    }
    if paused {
        pair.resume().await;
    }
    wait_until("a replica shows the write", async || {
        let answer = service.get(&pair.url(1, "value/a")).await;
        answer.assert_value(200);
        answer.by_replica()
    })
    .await;
    pair.stop().await;
}
