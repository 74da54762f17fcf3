//! The response leaves after the server acknowledged the commit, never before.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::post;
use flautino_axum::{DbError, EngineLayer, Tx};
use flautino_lab::{App, Lab};

use crate::common::NOTES;

async fn insert(mut tx: Tx, Path(title): Path<String>) -> Result<StatusCode, DbError> {
    let insert = sqlx::query("INSERT INTO notes (title) VALUES ($1)").bind(title);
    insert.execute(&mut tx).await?;
    Ok(StatusCode::CREATED)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_visible_to_others_when_the_client_has_the_response() {
    // Each commit takes some milliseconds, so that a response ahead of it would show.
    let slow_commit = "
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM pg_sleep(0.005); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION wait()";
    let lab = Lab::named("acknowledged").table(NOTES).sql(slow_commit).start().await;
    let app =
        Router::new().route("/{title}", post(insert)).layer(EngineLayer::new(lab.engine.clone()));
    let app = App::start(app, lab.engine.clone()).await;
    let client = reqwest::Client::new();
    let writers = (0..4).map(|writer| {
        let (client, url) = (&client, &app.url);
        let node = lab.primary();
        async move {
            let mut other = node.connect().await.unwrap();
            for round in 0..100 {
                let title = format!("{writer}-{round}");
                let answer = client.post(format!("{url}/{title}")).send().await.unwrap();
                assert_eq!(answer.status(), 201);
                let sql = "SELECT count(*) FROM notes WHERE title = $1";
                let count: i64 =
                    sqlx::query_scalar(sql).bind(&title).fetch_one(&mut other).await.unwrap();
                assert_eq!(count, 1, "{title} is not stored yet");
            }
        }
    });
    futures_util::future::join_all(writers).await;
    app.stop().await;
}
