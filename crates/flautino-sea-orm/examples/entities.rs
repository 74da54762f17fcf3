//! An app whose entities go through the router: which node served each request.
//!
//! Run with `cargo run -p flautino-sea-orm --example entities`. It starts a throwaway cluster of its own.

use std::error::Error;
use std::future::IntoFuture;
use std::time::Duration;

use axum::{Json, Router, http::StatusCode, routing::get};
use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_axum::{EngineLayer, TOKEN_HEADER};
use flautino_cluster::Cluster;
use flautino_sea_orm::{Db, DbError, Tx};
use sea_orm::{ActiveModelTrait, ActiveValue::Set, DbBackend, EntityTrait, Schema};
use tokio::{net::TcpListener, time::sleep};

#[allow(unreachable_pub, reason = "SeaORM's macros want the entity to be public")]
mod note {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel, serde::Serialize)]
    #[sea_orm(table_name = "note")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        pub title: String,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

async fn list(db: Db) -> Result<Json<Vec<note::Model>>, DbError> {
    Ok(Json(note::Entity::find().all(&db).await?))
}

async fn create(db: Db, Json(title): Json<String>) -> Result<StatusCode, DbError> {
    note::ActiveModel { title: Set(title), ..Default::default() }.insert(&db).await?;
    Ok(StatusCode::CREATED)
}

/// All or none: the layer commits if the response is a success.
async fn import(tx: Tx, Json(titles): Json<Vec<String>>) -> Result<StatusCode, DbError> {
    for title in titles {
        note::ActiveModel { title: Set(title), ..Default::default() }.insert(&tx).await?;
    }
    Ok(StatusCode::CREATED)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder().replicas(1).start().await?;
    let mut config = EngineConfig::from_url(&cluster.primary().url())?;
    config.extensions.clear();
    let replica = NodeConfig { url: Some(cluster.replica(0).url()), ..NodeConfig::default() };
    config.extra_nodes.insert("replica".to_owned(), replica);
    let table = Schema::new(DbBackend::Postgres).create_table_from_entity(note::Entity);
    cluster.primary().execute(&DbBackend::Postgres.build(&table).to_string()).await?;
    cluster.replica(0).catch_up_with(cluster.primary()).await?;
    let engine = Engine::new(config)?;
    let layer = EngineLayer::new(engine.clone()).server_timing(true);
    let app = Router::new().route("/", get(list).post(create).put(import)).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(flautino_axum::serve(listener, app, engine.clone()).into_future());
    let client = reqwest::Client::new();
    let written = client.post(&url).json("a").send().await?;
    println!("{} by {:?}", written.status(), written.headers()["server-timing"]);
    let written = client.put(&url).json(&["b", "c"]).send().await?;
    println!("{} by {:?}", written.status(), written.headers()["server-timing"]);
    for _ in 0..3 {
        sleep(Duration::from_millis(100)).await; // by then the replica has replayed it
        let token = &written.headers()[TOKEN_HEADER];
        let read = client.get(&url).header(TOKEN_HEADER, token).send().await?;
        println!("{} by {:?}", read.status(), read.headers()["server-timing"]);
    }
    engine.close().await;
    cluster.stop().await;
    Ok(())
}
