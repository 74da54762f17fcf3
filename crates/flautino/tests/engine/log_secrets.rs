//! What `log_queries` never tells: bind values and passwords.

use flautino::EngineConfig;
use flautino_lab::{Capture, cluster, config, open};
use sqlx::AssertSqlSafe;

const TARGET: &str = "flautino::query";

fn logging(cluster: &flautino_cluster::Cluster) -> EngineConfig {
    EngineConfig { log_queries: true, ..config(cluster, "logged") }
}

/// Fails where an event of the log tells the secret.
fn assert_untold(capture: &Capture, at_least: usize) {
    let logged = capture.of(TARGET);
    assert!(logged.len() >= at_least, "{logged:#?}");
    let telling: Vec<_> = logged
        .iter()
        .filter(|event| format!("{event:?}").contains("hunter2"))
        .map(|event| &event.fields)
        .collect();
    assert!(telling.is_empty(), "{telling:#?}");
}

#[tokio::test]
async fn no_bind_value_is_logged_and_no_error_quotes_one() {
    let cluster = cluster(0).await;
    let capture = Capture::start();
    let mut config = logging(&cluster);
    config.main.password = Some("hunter2".to_owned());
    let engine = open(config).await;
    let db = engine.handle();
    sqlx::query("CREATE TABLE t (a text UNIQUE)").execute(&db).await.unwrap();
    for _ in 0..2 {
        let _ = sqlx::query("INSERT INTO t VALUES ($1)").bind("hunter2").execute(&db).await;
    }
    sqlx::query("SELECT $1::text::int").bind("hunter2").execute(&db).await.unwrap_err();
    engine.close().await;
    assert_untold(&capture, 8);
}

#[tokio::test]
async fn the_password_of_a_role_is_not_logged_however_it_is_written() {
    let cluster = cluster(0).await;
    let capture = Capture::start();
    let engine = open(logging(&cluster)).await;
    let db = engine.handle();
    let literals = [
        "'hunter2'",
        "E'hunter2'",
        "'it''hunter2'",
        "E'it\\'hunter2'",
        "$$hunter2$$",
        "$x$hunter2$x$",
        "/* note */ 'hunter2'",
        "-- note\n 'hunter2'",
        "'it' \n 'hunter2'",
        "U&'hunter2' VALID UNTIL 'infinity'",
    ];
    for (index, literal) in literals.into_iter().enumerate() {
        let sql = format!("CREATE ROLE r{index} PASSWORD {literal}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&db).await.unwrap();
    }
    engine.close().await;
    assert_untold(&capture, 20);
}
