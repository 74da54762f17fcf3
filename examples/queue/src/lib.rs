//! Orders, and jobs of apalis that are committed with them. `main.rs` runs it.

use std::time::Duration;

use apalis::prelude::{Data, TaskBuilder, WorkerBuilder};
use apalis_postgres::{Config, PostgresStorage, queries::push_tasks};
use axum::{Router, extract::Path, routing::get, routing::post};
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use serde::{Deserialize, Serialize};

/// Where orders are kept.
pub const TABLE: &str = "CREATE TABLE orders (\
     id bigserial PRIMARY KEY, item text NOT NULL, packed_at timestamptz)";
const QUEUE: &str = "pack";

#[derive(Serialize, Deserialize)]
struct Pack {
    order: i64,
}

async fn order(mut tx: Tx, Path(item): Path<String>) -> Result<String, DbError> {
    let insert = sqlx::query_scalar("INSERT INTO orders (item) VALUES ($1) RETURNING id");
    let order: i64 = insert.bind(item).fetch_one(&mut tx).await?;
    let job = serde_json::to_vec(&Pack { order }).map_err(|err| sqlx::Error::Encode(err.into()))?;
    // In the same transaction: no order is without its job, and no job without its order.
    let pushed = push_tasks(&mut tx, QUEUE, vec![TaskBuilder::new(job).build()]).await;
    pushed.map_err(|err| match err {
        apalis_postgres::Error::Database(err) => err,
        other => sqlx::Error::Encode(other.into()),
    })?;
    Ok(format!("order {order}\n"))
}

async fn orders(db: Db) -> Result<String, DbError> {
    let sql = "SELECT concat(id, ': ', item, ' is ', CASE WHEN packed_at IS NULL THEN 'not ' END, 'packed', chr(10)) \
         FROM orders ORDER BY id";
    let lines: Vec<String> = sqlx::query_scalar(sql).fetch_all(&db).await?;
    Ok(lines.concat())
}

/// The app.
pub fn app(engine: &Engine) -> Router {
    let routes = Router::new().route("/orders", get(orders)).route("/orders/{item}", post(order));
    routes.layer(EngineLayer::new(engine.clone()))
}

/// What a worker does. One that dies before its job counts as done has another do it again, so it does no harm twice.
async fn pack(job: Pack, engine: Data<Engine>) -> Result<(), sqlx::Error> {
    let db = engine.handle(); // a session of its own; it begins with a write, and sees what it wrote from then on
    let sql = "UPDATE orders SET packed_at = now() WHERE id = $1 AND packed_at IS NULL";
    sqlx::query(sql).bind(job.order).execute(&db).await.map(drop)
}

/// Works until the engine is closed. A queue writes, so it has the pool of the node that is the primary; a failure,
/// such as that another node is it now, ends a worker of apalis, and the next one is started there.
pub async fn work(engine: Engine, name: &'static str) {
    loop {
        let status = engine.status();
        if !status.open {
            return;
        }
        if let Some(pool) = status.primary.and_then(|node| engine.pool(&node)) {
            let config = Config::default().queue(QUEUE).heartbeat_interval(Duration::from_secs(1));
            let backend = PostgresStorage::<Pack>::new(&pool).with_config(config).with_pubsub();
            let worker = WorkerBuilder::new(name).backend(backend).data(engine.clone()).build(pack);
            if let Err(error) = worker.run().await {
                tracing::warn!(%error, "the worker begins anew");
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
