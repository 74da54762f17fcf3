//! The span around a statement, as OpenTelemetry's conventions for PostgreSQL name its fields.

use flautino_lab::{Capture, Lab};
use futures_util::TryStreamExt;

#[tokio::test]
async fn each_statement_has_one_with_a_summary_and_no_value() {
    let lab = Lab::named("spans").table("notes (id int, title text)").start().await;
    let port = lab.primary().port().to_string();
    let log = Capture::start();
    let read = "SELECT title FROM notes WHERE title = 'a secret'";
    sqlx::query(read).fetch_all(&lab.db).await.unwrap();
    let _: Vec<_> = sqlx::query(read).fetch(&lab.db).try_collect().await.unwrap();
    let mut tx = lab.db.begin().await.unwrap();
    sqlx::query(read).fetch_optional(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let spans = log.spans("flautino");
    assert_eq!(spans.len(), 3, "{spans:#?}");
    for span in &spans {
        let expected = [
            ("span", "statement"),
            ("otel.name", "SELECT notes"),
            ("otel.kind", "client"),
            ("db.system.name", "postgresql"),
            ("db.namespace", "postgres"),
            ("db.query.summary", "SELECT notes"),
            ("server.address", "127.0.0.1"),
            ("server.port", &port),
            ("node", "main"),
            ("reason", "main_node"),
            ("error.type", ""),
        ];
        for (field, value) in expected {
            assert_eq!(span.field(field), value, "{field}");
        }
        assert!(!format!("{span:?}").contains("secret"), "{span:?}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn one_that_fails_tells_the_server_s_code() {
    let lab = Lab::named("failed").table("once (id int PRIMARY KEY)").start().await;
    let log = Capture::start();
    let twice = "INSERT INTO once VALUES (4711), (4711)";
    sqlx::query(twice).execute(&lab.db).await.unwrap_err();
    sqlx::query(twice).fetch(&lab.db).try_next().await.unwrap_err();
    let spans = log.spans("flautino");
    assert_eq!(spans.len(), 2, "{spans:#?}");
    for span in spans {
        let fields = ["db.response.status_code", "error.type", "otel.status_code"];
        assert_eq!(fields.map(|field| span.field(field)), ["23505", "23505", "ERROR"]);
        assert!(!format!("{span:?}").contains("4711"), "{span:?}");
    }
    lab.engine.close().await;
}
