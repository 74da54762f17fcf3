//! An app over a cluster that Patroni runs: it follows each new leader, and members that join or leave.
//!
//! Run with `cargo run -p patroni` (Debian: `apt-get install postgresql patroni etcd-server` first). It starts three
//! members in a temporary folder, by `patroni.yml`, and tells what to try. Ctrl-C ends all. `PORT` is 3000 by default.
//! Over a cluster of your own: `PATRONI_APIS=http://10.0.0.1:8008,http://10.0.0.2:8008` for some of its members, and
//! `DATABASE_URL=postgres://app@10.0.0.1/app` for any one of them, whichever leads.

use std::{error::Error, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use flautino::{DiscoveryConfig, Engine, EngineConfig};
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_cluster::patroni::{Member, Patroni};
use patroni::Members;
use tokio::net::{TcpListener, lookup_host};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let port: u16 = port.parse().map_err(|_| format!("PORT is {port:?}; expected 0 to 65535"))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let (cluster, engine) = tokio::select! {
        prepared = prepare() => prepared?,
        interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?), // drops the cluster
    };
    let app = Router::new()
        .route("/", get(count).post(add))
        .layer(EngineLayer::new(engine.clone()).server_timing(true))
        .merge(flautino_axum::status_routes(engine.clone()));
    let url = format!("http://{}", listener.local_addr()?);
    println!("listening on {url}\n  curl -i -b jar -c jar -X POST {url}; curl -i -b jar {url}");
    if let Some(cluster) = &cluster {
        let ctl = format!("patronictl -c {}", cluster.ctl_config().display());
        println!("  {ctl} list\n  {ctl} switchover --force\n  curl {url}/status.json");
    }
    flautino_axum::serve(listener, app, engine).await?;
    drop(cluster); // ends its processes, and removes its folder
    Ok(())
}

/// Opens an engine over the cluster that the environment names, else over one that it starts.
async fn prepare() -> Result<(Option<Patroni>, Engine), Failure> {
    let (cluster, mut config, apis) = if let Ok(apis) = std::env::var("PATRONI_APIS") {
        (None, EngineConfig::find()?, apis)
    } else {
        println!("Patroni elects a leader, and two copy it: about ten seconds");
        let cluster = Patroni::builder().config(include_str!("../patroni.yml")).start().await?;
        cluster.until_synchronous().await?; // no other replica may lead, as patroni.yml says
        let config = EngineConfig::from_url(&cluster.members()[0].url())?;
        let apis: Vec<_> = cluster.members().iter().map(Member::api).collect();
        (Some(cluster), config, apis.join(","))
    };
    // Patroni replaces a leader that vanished after its `ttl`, which is 20 s in patroni.yml.
    config.routing.failover_timeout = Duration::from_secs(45);
    let discovery = config.discovery.insert(DiscoveryConfig::new("patroni")); // not resolved as a name
    discovery.interval = Duration::from_secs(2);
    let engine = Engine::new(config)?;
    let main = engine.status().nodes.swap_remove(0);
    let main: SocketAddr = lookup_host((main.host, main.port)).await?.next().ok_or("no address")?;
    let members = Members::new(&apis)?;
    engine.resolve_with(move |_, _| {
        let members = members.clone();
        async move { members.nodes(main).await }
    });
    engine.open().await?;
    let sql = "CREATE TABLE IF NOT EXISTS visits (at timestamptz DEFAULT now())";
    sqlx::query(sql).execute(&engine.handle()).await?;
    Ok((cluster, engine))
}

async fn count(db: Db) -> Result<String, DbError> {
    Ok(sqlx::query_scalar("SELECT 'visits: ' || count(*) FROM visits").fetch_one(&db).await?)
}

async fn add(db: Db) -> Result<(), DbError> {
    Ok(sqlx::query("INSERT INTO visits DEFAULT VALUES").execute(&db).await.map(drop)?)
}
