//! All who wait for a position at a time share one question to the node, whatever becomes of any of
//! them.

use std::time::Duration;

use flautino::{Engine, Handle, Token};
use flautino_lab::{Lab, LabBuilder, settings, tasks, wait_until};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use crate::common::*;

/// How many ask at once.
const MANY: usize = 1000;

/// A frozen engine over a primary, behind a proxy, and a replica.
fn lab(name: &str) -> LabBuilder<'_> {
    Lab::named(name).replicas(1).table("t (a int)").behind_proxy().frozen()
}

/// Sessions that wrote, so that each needs the primary's position.
async fn writers(engine: &Engine, count: usize) -> Vec<Handle> {
    let writer = async || {
        let db = engine.handle();
        insert(&db, 1).await;
        db
    };
    join_all((0..count).map(|_| writer())).await
}

/// Their tokens, each asked for and not there yet.
fn asked(writers: &[Handle]) -> Vec<BoxFuture<'_, Option<Token>>> {
    let mut tokens: Vec<_> = writers.iter().map(|db| db.token().boxed()).collect();
    for token in &mut tokens {
        assert_eq!(token.now_or_never(), None);
    }
    tokens
}

#[tokio::test]
async fn a_thousand_tokens_at_once_cost_few_questions_and_no_task_each() {
    let lab = lab("thousand").start().await;
    let writers = writers(&lab.engine, MANY).await;
    let before = (token_probes(&lab.engine), tasks());
    let tokens = asked(&writers);
    assert!(tasks() <= before.1 + 2, "{} tasks, before {}", tasks(), before.1);
    for token in join_all(tokens).await {
        assert!(!is_until(token.unwrap()));
    }
    let probes = token_probes(&lab.engine) - before.0;
    assert!((1..=3).contains(&probes), "{probes}");
    lab.engine.close().await;
}

#[tokio::test]
async fn who_leaves_or_is_not_polled_any_more_holds_nobody_up() {
    let lab = lab("leaves").start().await;
    let writers = writers(&lab.engine, 12).await;
    let before = token_probes(&lab.engine);
    // The first one of all leaves, for whom the question was begun.
    let mut tokens = asked(&writers);
    drop(tokens.drain(..4));
    let left_alone = tokens.split_off(4);
    for token in join_all(tokens).await {
        assert!(!is_until(token.unwrap()));
    }
    let later = lab.engine.handle();
    insert(&later, 1).await;
    assert!(!is_until(later.token().await.unwrap()));
    // Their answer has been there since.
    for token in left_alone {
        assert!(!is_until(token.now_or_never().unwrap().unwrap()));
    }
    assert_eq!(token_probes(&lab.engine) - before, 2);
    lab.engine.close().await;
}

#[tokio::test]
async fn nobody_is_asked_for_those_who_have_all_left() {
    let lab = lab("left").start().await;
    let writers = writers(&lab.engine, 3).await;
    let before = (token_probes(&lab.engine), tasks());
    drop(asked(&writers));
    wait_until("its task has ended", async || tasks() <= before.1).await;
    assert_eq!(token_probes(&lab.engine), before.0);
    assert!(!is_until(writers[0].token().await.unwrap()));
    lab.engine.close().await;
}

#[tokio::test]
async fn a_question_without_an_answer_fails_all_who_share_it_and_nobody_else() {
    let lab = lab("unanswered").probe_timeout(Duration::from_secs(2)).start().await;
    let writers = writers(&lab.engine, 20).await;
    let before = token_probes(&lab.engine);
    lab.proxy().stall();
    for token in join_all(asked(&writers)).await {
        assert!(is_until(token.unwrap()));
    }
    assert_eq!(token_probes(&lab.engine) - before, 1);
    lab.proxy().heal().unwrap();
    until_primary(&lab.engine, "main").await;
    wait_until("the primary tells its position", async || {
        let db = lab.engine.handle();
        insert(&db, 2).await;
        !is_until(db.token().await.unwrap())
    })
    .await;
    lab.engine.close().await;
}

#[tokio::test]
async fn close_ends_the_wait_for_a_position() {
    let patient = |config: &mut flautino::EngineConfig| {
        config.routing.probe_timeout = settings::HOUR;
    };
    let lab = lab("closes").config(patient).start().await;
    let writers = writers(&lab.engine, 20).await;
    let before = token_probes(&lab.engine);
    lab.proxy().stall();
    let waiting = {
        let writers = writers.clone();
        tokio::spawn(async move { join_all(writers.iter().map(Handle::token)).await })
    };
    wait_until("the primary is asked", async || token_probes(&lab.engine) > before).await;
    lab.engine.close_within(Duration::ZERO).await;
    wait_until("all have a token", async || waiting.is_finished()).await;
    for token in waiting.await.unwrap() {
        assert!(is_until(token.unwrap()));
    }
}
