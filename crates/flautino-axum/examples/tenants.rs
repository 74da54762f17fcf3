//! Row-level security: each request sees the rows of its own tenant, on whichever node it reads.
//!
//! Run with `cargo run -p flautino-axum --example tenants`. It starts a throwaway cluster of its own, asks the app as
//! two tenants and as a stranger, and shows what each is told.

use std::error::Error;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::{Json, Router, response::Response, routing::get};
use flautino::{Engine, EngineConfig, NodeConfig};
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_cluster::{Cluster, Node};
use tokio::net::TcpListener;

/// Who asks. A real app takes it from a session or a signed token.
#[derive(Clone)]
struct Tenant(String);

async fn authenticate(mut request: Request, next: Next) -> Response {
    let name = request.headers().get("x-tenant").and_then(|name| name.to_str().ok());
    if let Some(tenant) = name.map(|name| Tenant(name.to_owned())) {
        request.extensions_mut().insert(tenant);
    }
    next.run(request).await
}

/// No `WHERE tenant = …`, so none can be forgotten.
async fn notes(db: Db) -> Result<Json<Vec<String>>, DbError> {
    Ok(Json(sqlx::query_scalar("SELECT title FROM notes ORDER BY title").fetch_all(&db).await?))
}

/// A superuser would see every row, and so would the table's owner: the app logs in as neither.
const SCHEMA: &str = "
    CREATE TABLE notes (title text, tenant text);
    INSERT INTO notes VALUES ('bread', 'baker'), ('rolls', 'baker'), ('nails', 'smith');
    ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
    -- Without a tenant the setting is NULL, or empty where the session had one before.
    CREATE POLICY own ON notes USING (tenant = nullif(current_setting('app.tenant', true), ''));
    CREATE ROLE app LOGIN;
    GRANT SELECT, INSERT ON notes TO app";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder().replicas(1).start().await?;
    cluster.primary().execute(SCHEMA).await?;
    cluster.replica(0).catch_up_with(cluster.primary()).await?;
    let node = |node: &Node| NodeConfig {
        url: Some(node.url().replace("postgres@", "app@")),
        ..NodeConfig::default()
    };
    let mut config = EngineConfig { extensions: Vec::new(), ..EngineConfig::default() };
    config.main = node(cluster.primary());
    config.extra_nodes.insert("replica".to_owned(), node(cluster.replica(0)));
    let engine = Engine::new(config)?;

    let layer = EngineLayer::new(engine.clone()).settings(|request| {
        let tenant = request.extensions.get::<Tenant>();
        tenant.map(|tenant| ("app.tenant", tenant.0.clone()))
    });
    let app = Router::new().route("/notes", get(notes)).layer(from_fn(authenticate)).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/notes", listener.local_addr()?);
    tokio::select! {
        served = flautino_axum::serve(listener, app, engine) => drop(served?),
        asked = ask(&url) => asked?,
    }
    cluster.stop().await;
    Ok(())
}

async fn ask(url: &str) -> Result<(), reqwest::Error> {
    for tenant in ["baker", "smith", "a stranger"] {
        let request = reqwest::Client::new().get(url).header("x-tenant", tenant);
        println!("{tenant} sees {}", request.send().await?.text().await?);
    }
    Ok(())
}
