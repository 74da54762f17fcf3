//! An app with two databases: orders, and reports of their own.
//!
//! Run with `cargo run -p flautino-axum --example several_engines`. It starts two throwaway servers, stores something in
//! each by one request, and shows that a failure in one handler undoes both.

use std::error::Error;

use axum::{Router, http::StatusCode, routing::post};
use flautino::{Engine, EngineConfig};
use flautino_axum::{DbError, EngineLayer, Tx};
use flautino_cluster::Cluster;
use tokio::net::TcpListener;

/// The name of the second engine. Any type does.
struct Reports;

/// Each transaction is committed on its own when the response is a success: first the one of the inner layer. If
/// the second commit fails, the first one stays.
async fn order(mut tx: Tx, mut reports: Tx<Reports>, item: String) -> Result<StatusCode, DbError> {
    sqlx::query("INSERT INTO orders VALUES ($1)").bind(&item).execute(&mut tx).await?;
    sqlx::query("INSERT INTO sold VALUES ($1)").bind(&item).execute(&mut reports).await?;
    Ok(if item == "nothing" { StatusCode::BAD_REQUEST } else { StatusCode::CREATED })
}

fn engine(cluster: &Cluster, name: &str) -> Result<Engine, Box<dyn Error>> {
    let mut config = EngineConfig::from_url(&cluster.primary().url())?;
    config.extensions.clear();
    config.name = name.to_owned(); // for metrics
    Ok(Engine::new(config)?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (shop, archive) = tokio::try_join!(Cluster::builder().start(), Cluster::builder().start())?;
    shop.primary().execute("CREATE TABLE orders (item text)").await?;
    archive.primary().execute("CREATE TABLE sold (item text)").await?;
    let (engine, reports) = (engine(&shop, "shop")?, engine(&archive, "archive")?);

    let app = Router::new()
        .route("/order", post(order))
        .layer(EngineLayer::new(engine.clone()))
        .layer(EngineLayer::new(reports.clone()).named::<Reports>());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/order", listener.local_addr()?);
    // Opens both, and would close both at the signal to shut down.
    let served = flautino_axum::serve(listener, app, engine).with_engine(reports);
    tokio::select! {
        served = served => drop(served?),
        asked = ask(&url) => asked?,
    }
    let orders: Vec<String> = stored(&shop, "SELECT item FROM orders").await?;
    let sold: Vec<String> = stored(&archive, "SELECT item FROM sold").await?;
    println!("orders: {orders:?}, sold: {sold:?}");
    shop.stop().await;
    archive.stop().await;
    Ok(())
}

async fn ask(url: &str) -> Result<(), reqwest::Error> {
    for item in ["bread", "nothing"] {
        let answer = reqwest::Client::new().post(url).body(item).send().await?;
        println!("an order of {item}: {}", answer.status());
    }
    Ok(())
}

async fn stored(cluster: &Cluster, sql: &'static str) -> Result<Vec<String>, Box<dyn Error>> {
    Ok(sqlx::query_scalar(sql).fetch_all(&mut cluster.primary().connect().await?).await?)
}
