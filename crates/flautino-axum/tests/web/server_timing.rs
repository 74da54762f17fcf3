//! `Server-Timing`: which node ran each statement, why, and how long.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_lab::{Lab, cluster, config};

use crate::common::serve_plainly;

async fn two_nodes(db: Db) -> Result<(), DbError> {
    sqlx::query("SELECT 1").execute(&db).await?;
    let replica = db.node("read_replica_1")?;
    sqlx::query("SELECT pg_sleep(0.05)").execute(&replica).await?;
    Ok(())
}

async fn many(db: Db, Path(count): Path<usize>) -> Result<(), DbError> {
    for _ in 0..count {
        sqlx::query("SELECT 1").execute(&db).await?;
    }
    Ok(())
}

async fn in_transaction(mut tx: Tx) -> Result<StatusCode, DbError> {
    for _ in 0..2 {
        sqlx::query("SELECT 1").execute(&mut tx).await?;
    }
    Ok(StatusCode::CREATED)
}

async fn failing(db: Db) -> Result<(), DbError> {
    sqlx::query("SELECT nonsense").execute(&db).await?;
    Ok(())
}

fn app(engine: &Engine, on: Option<bool>) -> Router {
    let layer = EngineLayer::new(engine.clone());
    let layer = match on {
        Some(on) => layer.server_timing(on),
        None => layer,
    };
    Router::new()
        .route("/nodes", get(two_nodes))
        .route("/many/{count}", get(many))
        .route("/tx", get(in_transaction))
        .route("/failing", get(failing))
        .layer(layer)
}

/// Each entry as its duration and its description.
async fn timings(url: &str) -> Vec<(f64, String)> {
    let answer = reqwest::get(url).await.unwrap();
    let Some(header) = answer.headers().get("server-timing") else {
        return Vec::new();
    };
    let entries = header.to_str().unwrap().split(", ");
    let parse = |entry: &str| {
        let (duration, description) = entry.strip_prefix("db;dur=")?.split_once(";desc=\"")?;
        let description = description.strip_suffix('"')?;
        Some((duration.parse().ok()?, description.to_owned()))
    };
    entries
        .map(|entry| parse(entry).unwrap_or_else(|| panic!("{entry:?} has another form")))
        .collect()
}

#[tokio::test]
async fn each_statement_is_listed_with_its_node_and_reason() {
    let lab = Lab::named("timing").replicas(1).start().await;
    let url = serve_plainly(app(&lab.engine, Some(true))).await;

    let entries = timings(&format!("{url}/nodes")).await;
    let described: Vec<_> = entries.iter().map(|(_, text)| &**text).collect();
    assert_eq!(described, ["read_replica_1 no_floor", "read_replica_1 named_node"]);
    assert!(entries[1].0 >= 50.0 && entries[1].0 < 5000.0, "{entries:?}");

    for path in ["tx", "failing"] {
        let entries = timings(&format!("{url}/{path}")).await;
        // What a replica does not know, the primary may: it is asked too.
        let expected = 2;
        assert_eq!(entries.len(), expected, "{path}: {entries:?}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn the_first_eight_statements_are_listed() {
    let lab = Lab::named("timing").start().await;
    let url = serve_plainly(app(&lab.engine, Some(true))).await;
    for (count, listed) in [(0, 0), (1, 1), (8, 8), (9, 8), (20, 8)] {
        let entries = timings(&format!("{url}/many/{count}")).await;
        assert_eq!(entries.len(), listed, "of {count}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn strangers_learn_nothing_unless_it_is_asked_for() {
    let lab = Lab::named("timing").start().await;
    for on in [None, Some(false)] {
        let url = serve_plainly(app(&lab.engine, on)).await;
        assert_eq!(timings(&format!("{url}/many/2")).await, []);
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_node_s_name_with_quotes_or_other_letters_leaves_the_list_whole() {
    let cluster = cluster(0).await;
    for name in ["with\"quote", "réplica"] {
        let mut config = config(&cluster, "timing");
        config.extra_nodes.insert(name.to_owned(), config.main.clone());
        let engine = Engine::new(config).unwrap();
        let on_both = async move |db: Db| -> Result<(), DbError> {
            sqlx::query("SELECT 1").execute(&db).await?;
            let named = db.node(name)?;
            sqlx::query("SELECT 1").execute(&named).await?;
            Ok(())
        };
        let app = Router::new()
            .route("/", get(on_both))
            .layer(EngineLayer::new(engine).server_timing(true));
        let url = serve_plainly(app).await;
        let answer = reqwest::get(url).await.unwrap();
        let header = answer.headers().get("server-timing");
        let header = header.unwrap_or_else(|| panic!("no Server-Timing with a node {name:?}"));
        let text = String::from_utf8_lossy(header.as_bytes());
        assert_eq!(text.matches("db;dur=").count(), 2, "{text}");
        // Quotes in pairs, or a client reads another list than this.
        assert_eq!(text.matches('"').count(), 4, "{text}");
    }
}
