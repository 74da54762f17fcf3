//! Which statements cost what: counted while somebody looks, and warned of when one takes long.

use std::time::Duration;

use flautino::{Engine, StatementStatus};
use flautino_lab::{Capture, Lab};

fn of(engine: &Engine, text: &str) -> Option<StatementStatus> {
    engine.status().statements.into_iter().find(|statement| statement.text == text)
}

#[tokio::test]
async fn statements_are_counted_only_while_somebody_looks_and_without_values() {
    let lab = Lab::named("watched").start().await;
    let ask = async |sql: &'static str| {
        let _: i32 = sqlx::query_scalar(sql).fetch_one(&lab.db).await.unwrap();
    };
    ask("SELECT 1").await;
    assert_eq!(lab.engine.status().statements, []);

    let watch = lab.engine.watch_statements();
    ask("SELECT 17").await;
    ask("SELECT  18 -- a comment").await;
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query("SELECT pg_sleep(0.02), 'a secret'").execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(of(&lab.engine, "SELECT ?").unwrap().count, 2);
    let slept = of(&lab.engine, "SELECT pg_sleep(?), ?").unwrap();
    assert!(slept.count == 1 && slept.max_us >= 20_000 && slept.mean_us >= 20_000, "{slept:?}");
    assert!(!format!("{:?}", lab.engine.status()).contains("secret"));

    // What was counted stays, and a new watch begins anew.
    drop(watch);
    ask("SELECT 19").await;
    assert_eq!(of(&lab.engine, "SELECT ?").unwrap().count, 2);
    let _watch = lab.engine.watch_statements();
    assert_eq!(lab.engine.status().statements, []);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_statement_that_takes_long_is_warned_of_with_its_node_and_without_values() {
    let slow = Duration::from_millis(50);
    let lab = Lab::named("slow").config(|config| config.log_slow = slow).start().await;
    let log = Capture::start();
    sqlx::query("SELECT pg_sleep(0.06), 'a secret'").execute(&lab.db).await.unwrap();
    let warnings = log.of("flautino::slow");
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!((warning.field("node"), warning.field("reason")), ("main", "main_node"));
    assert_eq!(warning.field("sql"), "SELECT pg_sleep(?), ?");
    // One that is given up is told of as well: nobody else will.
    let sleep = sqlx::query("SELECT pg_sleep(60)").execute(&lab.db);
    tokio::time::timeout(slow * 2, sleep).await.unwrap_err();
    assert_eq!(log.of("flautino::slow").len(), 2);
    lab.engine.close().await;

    let lab = Lab::named("slow").config(|config| config.log_slow = Duration::ZERO).start().await;
    let log = Capture::start();
    sqlx::query("SELECT pg_sleep(0.06)").execute(&lab.db).await.unwrap();
    assert!(log.of("flautino::slow").is_empty());
    lab.engine.close().await;
}
