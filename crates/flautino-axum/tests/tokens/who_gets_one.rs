//! Only responses to requests that wrote carry a token, and nothing else costs the primary.

use axum::http::HeaderMap;
use flautino_lab::{App, cluster, engine, settings, wait_until};
use futures_util::future::join_all;

use crate::browser::{Browser, get};
use crate::common::{Pair, app};

#[tokio::test]
async fn a_request_that_wrote_gets_a_token_and_another_gets_none() {
    let pair = Pair::start(settings::lively).await;
    let mut browser = Browser::default();
    for path in ["value/a", "idle", "nowhere", "status.json"] {
        let answer = browser.get(&pair.url(0, path)).await;
        assert_eq!(answer.token(), None, "{path}");
        assert!(answer.set_cookies().is_empty(), "{path}");
    }
    let written = browser.get(&pair.url(0, "set/a/1")).await;
    assert!(written.token().is_some());
    // Also with a token, by the primary or by a replica.
    wait_until("a replica shows the write", async || {
        let answer = browser.get(&pair.url(1, "value/a")).await;
        answer.assert_value(1);
        assert_eq!((answer.token(), answer.set_cookies().len()), (None, 0), "{answer:?}");
        answer.by_replica()
    })
    .await;
    pair.stop().await;
}

#[tokio::test]
async fn reads_with_a_token_cost_no_statement_at_the_primary() {
    let pair = Pair::start(settings::lively).await;
    let mut browser = Browser::default();
    browser.get(&pair.url(0, "set/a/1")).await;
    for instance in 0..2 {
        wait_until("replicas have the write", async || {
            browser.get(&pair.url(instance, "value/a")).await.by_replica()
        })
        .await;
    }
    let of_primary =
        || -> u64 { pair.engines.iter().map(|engine| engine.status().nodes[0].statements).sum() };
    let before = (pair.token_probes(), of_primary());
    for round in 0..200 {
        let answer = browser.get(&pair.url(round, "value/a")).await;
        answer.assert_value(1);
        assert_eq!(answer.served().1, "floor_met");
    }
    assert_eq!((pair.token_probes(), of_primary()), before);
    pair.stop().await;
}

#[tokio::test]
async fn a_write_costs_one_question_at_the_most_and_many_writes_share_one() {
    let pair = Pair::start(settings::lively).await;
    let client = reqwest::Client::new();
    let before = pair.token_probes();
    for value in 0..20 {
        let url = pair.url(0, &format!("set/a/{value}"));
        assert!(get(&client, &url, HeaderMap::new()).await.token().is_some());
    }
    let sequential = pair.token_probes() - before;
    assert!(sequential <= 20, "{sequential}");

    let before = pair.token_probes();
    for _ in 0..10 {
        let writes = (0..32).map(|key| {
            let url = pair.url(0, &format!("set/{key}/1"));
            let client = &client;
            async move { get(client, &url, HeaderMap::new()).await.token().is_some() }
        });
        assert!(join_all(writes).await.into_iter().all(|token| token));
    }
    let shared = pair.token_probes() - before;
    assert!(shared < 160, "{shared} questions for 320 writes");
    println!("{shared} questions for 320 writes");
    pair.stop().await;
}

#[tokio::test]
async fn where_there_is_one_node_nobody_gets_a_token() {
    let cluster = cluster(0).await;
    let table = "CREATE TABLE entries (key text PRIMARY KEY, value bigint NOT NULL)";
    cluster.primary().execute(table).await.unwrap();
    let engine = engine(&cluster, "tokens").await;
    let app = App::start(app(&engine), engine.clone()).await;
    let mut browser = Browser::default();
    browser.cookies.push(("flautino_token".into(), "garbage".into()));
    for path in ["set/a/1", "value/a", "set-in-transaction/a/2/200", "refused"] {
        let answer = browser.get(&format!("{}/{path}", app.url)).await;
        assert_eq!((answer.token(), answer.set_cookies().len()), (None, 0), "{path}: {answer:?}");
    }
    assert_eq!(engine.status().nodes[0].token_probes, 0);
    app.stop().await;
}
