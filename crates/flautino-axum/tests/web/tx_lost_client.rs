//! A client that goes away before the response: its transaction is rolled back.

use axum::Router;
use axum::routing::get;
use flautino_axum::{DbError, EngineLayer, Tx};
use flautino_lab::{App, Lab, wait_until};

use crate::common::{NOTES, SOON, send_get, sessions_in, titles};

async fn insert(tx: &mut Tx) -> Result<(), DbError> {
    sqlx::query("INSERT INTO notes (title) VALUES ('lost')").execute(tx).await?;
    Ok(())
}

async fn between_statements(mut tx: Tx) -> Result<(), DbError> {
    insert(&mut tx).await?;
    std::future::pending().await
}

async fn mid_statement(mut tx: Tx) -> Result<(), DbError> {
    insert(&mut tx).await?;
    sqlx::query("SELECT pg_sleep(60)").execute(&mut tx).await?;
    Ok(())
}

/// The commit itself takes a minute, by a deferred trigger.
async fn mid_commit(mut tx: Tx) -> Result<(), DbError> {
    sqlx::query("INSERT INTO slow DEFAULT VALUES").execute(&mut tx).await?;
    insert(&mut tx).await
}

#[tokio::test]
async fn a_client_that_leaves_mid_handler_rolls_back_and_frees_the_only_connection() {
    let slow_commit = "
        CREATE TABLE slow (id bigserial);
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait()";
    let lab =
        Lab::named("lost").table(NOTES).sql(slow_commit).one_connection().start_closed().await;
    let Lab { cluster, engine, .. } = lab;
    let node = cluster.primary();
    let count = async |mut tx: Tx| -> Result<String, DbError> {
        let sql = "SELECT count(*)::text FROM notes";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut tx).await?)
    };
    let app = Router::new()
        .route("/between", get(between_statements))
        .route("/mid", get(mid_statement))
        .route("/commit", get(mid_commit))
        .route("/count", get(count))
        .layer(EngineLayer::new(engine.clone()));
    let app = App::start(app, engine.clone()).await;
    let at = [
        ("/between", "idle in transaction", "INSERT"),
        ("/mid", "active", "SELECT pg_sleep"),
        ("/commit", "active", "COMMIT"),
    ];
    for (path, state, query) in at {
        let client = send_get(&app.url, path).await;
        let there = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lost'
                AND state = '{state}' AND query LIKE '{query}%'"
        );
        wait_until("the handler is there", async || {
            flautino_lab::ask::<i64>(node, &there).await == 1
        })
        .await;
        drop(client);

        // The only connection is free at once.
        let answer = tokio::time::timeout(SOON, reqwest::get(format!("{}/count", app.url)));
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.text().await.unwrap(), "0", "{path}");
        let over = wait_until("the transaction is over", async || {
            sessions_in(node, "lost", "active").await == 0
                && sessions_in(node, "lost", "idle in transaction").await == 0
        });
        assert!(over.await < SOON, "{path}");
        assert_eq!(titles(node).await, [""; 0], "{path}");
        assert_eq!(engine.status().nodes[0].in_flight, 0, "{path}");
    }
    app.stop().await;
}
