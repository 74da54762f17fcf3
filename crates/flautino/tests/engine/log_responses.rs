//! `log_responses`: the rows as events, decoded by type.

use flautino::{Engine, EngineConfig, Handle};
use flautino_lab::{Capture, ask, cluster, config, is_since, open};
use sqlx::AssertSqlSafe;

async fn row_text(capture: &Capture, db: &Handle, expression: &str) -> String {
    let before = capture.of("flautino::response").len();
    let sql = format!("SELECT {expression} AS v");
    sqlx::query(AssertSqlSafe(sql)).fetch_all(db).await.unwrap();
    let events = capture.of("flautino::response").split_off(before);
    assert_eq!(events.len(), 1, "one row, one event");
    assert_eq!(events[0].field("node"), "main");
    events[0].field("row").to_owned()
}

/// Compares each with the server's own text.
async fn compare(expressions: &[&str], quoted: bool) {
    let cluster = cluster(0).await;
    let capture = Capture::start();
    let mut config = EngineConfig { log_responses: true, ..config(&cluster, "rows") };
    config.main.options.insert("TimeZone".to_owned(), "UTC".to_owned());
    let engine = open(config).await;
    let db = engine.handle();
    let mut wrong = Vec::new();
    for expression in expressions {
        if expression.contains("Infinity'::numeric")
            && !is_since(14, cluster.primary(), "infinite numeric").await
        {
            continue;
        }
        let sql = format!("SELECT ({expression})::text");
        let mut expected: String = ask(cluster.primary(), &sql).await;
        if quoted {
            expected = format!("{expected:?}");
        }
        let text = row_text(&capture, &db, expression).await;
        if text != format!("{{v: {expected}}}") {
            wrong.push(format!("{expression}: {text}, the server: {expected}"));
        }
    }
    engine.close().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn plain_values_read_as_the_server_s_text() {
    let expressions = [
        "true",
        "false",
        "(-32768)::int2",
        "2147483647::int4",
        "(-9223372036854775808)::int8",
        "1.5::float4",
        "(-0.25)::float8",
        "'NaN'::float8",
        "7::oid",
        "'{\"a\":[1, null]}'::json",
        "'{\"a\": [1, null]}'::jsonb",
        "'c2a5e0d4-9a3b-4f0e-8a86-1e6a0d3c0b5f'::uuid",
        "'\\xdeadbeef'::bytea",
        "'2024-02-29'::date",
    ];
    compare(&expressions, false).await;
    compare(&["'plain'::text", "'two words'::varchar", "'n'::name", "'ä'::text"], true).await;
}

#[tokio::test]
async fn numerics_read_as_the_server_s_text() {
    let expressions = [
        "0::numeric",
        "0.00::numeric(5,2)",
        "12345678901234567890.123456789",
        "-0.00012",
        "10000",
        "100000000.5",
        "1e20::numeric",
        "1e-20::numeric",
        "'NaN'::numeric",
        "'Infinity'::numeric",
        "'-Infinity'::numeric",
    ];
    compare(&expressions.map(|text| if text == "10000" { "10000::numeric" } else { text }), false)
        .await;
}

#[tokio::test]
async fn times_read_as_the_server_s_text() {
    let expressions = [
        "'2024-01-02 03:04:05'::timestamp",
        "'2024-01-02 03:04:05.678901'::timestamp",
        "'2024-01-02 13:04:05.5+00'::timestamptz",
        "'infinity'::timestamptz",
        "'1999-12-31 23:59:59'::timestamp",
        "'03:04:05'::time",
        "'23:04:05.25'::time",
        "'infinity'::date",
        "'1970-01-01'::date",
    ];
    compare(&expressions, false).await;
}

#[tokio::test]
async fn arrays_read_as_the_server_s_text() {
    compare(
        &[
            "ARRAY[1, 2, NULL]::int4[]",
            "'{}'::int8[]",
            "ARRAY[true, false]",
            "'{{1,2},{3,4}}'::int2[]",
        ],
        false,
    )
    .await;
}

#[tokio::test]
async fn nulls_and_several_columns_are_shown_and_off_means_no_event() {
    let cluster = cluster(0).await;
    let capture = Capture::start();
    let engine =
        Engine::new(EngineConfig { log_responses: true, ..config(&cluster, "rows") }).unwrap();
    engine.open().await.unwrap();
    let db = engine.handle();
    assert_eq!(row_text(&capture, &db, "NULL::int4").await, "{v: NULL}");
    let text = row_text(&capture, &db, "1 AS a, 'x'::text AS b, NULL::text").await;
    assert_eq!(text, "{a: 1, b: \"x\", v: NULL}");
    assert!(capture.of("flautino::query").is_empty(), "log_queries is off");
    engine.close().await;

    let before = capture.of("flautino::response").len();
    let engine = flautino_lab::engine(&cluster, "quiet").await;
    sqlx::query("SELECT 1").fetch_all(&engine.handle()).await.unwrap();
    engine.close().await;
    assert_eq!(capture.of("flautino::response").len(), before);
}
