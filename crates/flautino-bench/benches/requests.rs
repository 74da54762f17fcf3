//! Whole requests on a real cluster of a primary and two replicas, through the layer.
//!
//! Counts first: statements at the servers for each request, and token probes for each write. They
//! do not depend on the machine. Times are ratios of two engines measured in turns in one run: one
//! over the primary alone, one over all three nodes.

use std::error::Error;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use flautino::{Engine, EngineConfig, EngineStatus, NodeConfig};
use flautino_axum::{Db, DbError, EngineLayer};
use flautino_cluster::Cluster;
use futures_util::future::try_join_all;
use http::{Request, header};
use tower::ServiceExt;

const ROUNDS: u32 = 2_000;
const CONCURRENT: usize = 64;
const EACH: u32 = 50;

async fn write(db: Db) -> Result<(), DbError> {
    sqlx::query("UPDATE counters SET n = n + 1 WHERE id = $1")
        .bind(fastrand_id())
        .execute(&db)
        .await?;
    Ok(())
}

/// One of a thousand rows, so that writers do not wait for each other.
fn fastrand_id() -> i32 {
    use std::hash::{BuildHasher, RandomState};
    i32::try_from(RandomState::new().hash_one(0) % 1000).unwrap_or(0)
}

async fn read(db: Db) -> Result<(), DbError> {
    sqlx::query("SELECT n FROM counters WHERE id = $1").bind(1).execute(&db).await?;
    Ok(())
}

struct App {
    engine: Engine,
    router: Router,
}

impl App {
    async fn new(config: EngineConfig) -> Result<Self, Box<dyn Error>> {
        let engine = Engine::new(config)?;
        engine.open().await?;
        let router = Router::new()
            .route("/", get(read))
            .route("/", post(write))
            .layer(EngineLayer::new(engine.clone()));
        Ok(Self { engine, router })
    }

    /// Sends a request; answers the token that came with the response.
    async fn send(
        &self,
        method: &str,
        token: Option<&str>,
    ) -> Result<Option<String>, Box<dyn Error>> {
        let mut request = Request::builder().method(method).uri("/");
        if let Some(token) = token {
            request = request.header(flautino_axum::TOKEN_HEADER, token);
        }
        let response = self.router.clone().oneshot(request.body(Body::empty())?).await?;
        if !response.status().is_success() {
            return Err(format!("{method}: {}", response.status()).into());
        }
        let token = response.headers().get(flautino_axum::TOKEN_HEADER);
        assert!(response.headers().get(header::SET_COOKIE).is_some() == token.is_some());
        Ok(token.map(|token| token.to_str().map(ToOwned::to_owned)).transpose()?)
    }

    /// So many requests, one after the other: the time of each, and what they cost.
    async fn measure(
        &self,
        method: &str,
        token: Option<&str>,
    ) -> Result<(Duration, Cost), Box<dyn Error>> {
        let (before, started) = (Cost::of(&self.engine.status()), Instant::now());
        for _ in 0..ROUNDS {
            self.send(method, token).await?;
        }
        let elapsed = started.elapsed() / ROUNDS;
        Ok((elapsed, Cost::of(&self.engine.status()).since(before)))
    }
}

#[derive(Clone, Copy)]
struct Cost {
    statements: u64,
    token_probes: u64,
}

impl Cost {
    fn of(status: &EngineStatus) -> Self {
        Self {
            statements: status.nodes.iter().map(|node| node.statements).sum(),
            token_probes: status.nodes.iter().map(|node| node.token_probes).sum(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            statements: self.statements - before.statements,
            token_probes: self.token_probes - before.token_probes,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn per(count: u64, of: u64) -> f64 {
    count as f64 / of as f64
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder().replicas(2).start().await?;
    let primary = cluster.primary();
    primary
        .execute(
            "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); \
                  INSERT INTO counters (id) SELECT generate_series(0, 999)",
        )
        .await?;
    let mut config = EngineConfig::from_url(&primary.url())?;
    config.extensions.clear();
    let alone = App::new(config.clone()).await?;
    for number in 0..2 {
        cluster.replica(number).catch_up_with(primary).await?;
        let url = Some(cluster.replica(number).url());
        let node = NodeConfig { url, ..NodeConfig::default() };
        config.extra_nodes.insert(format!("replica_{number}"), node);
    }
    let routed = App::new(config).await?;

    for (name, method) in [("write", "POST"), ("read", "GET")] {
        // Once unmeasured, so that connections are there.
        alone.measure(method, None).await?;
        routed.measure(method, None).await?;
        let (mut slow, mut fast) = (Duration::ZERO, Duration::ZERO);
        let mut cost = Cost { statements: 0, token_probes: 0 };
        for _ in 0..3 {
            fast += alone.measure(method, None).await?.0;
            let (elapsed, one) = routed.measure(method, None).await?;
            slow += elapsed;
            cost.statements += one.statements;
            cost.token_probes += one.token_probes;
        }
        let of = u64::from(ROUNDS) * 3;
        println!(
            "{name}: {:.3} statements, {:.3} token probes a request; {:.2} times as long as without \
             replicas ({:?} to {:?})",
            per(cost.statements, of),
            per(cost.token_probes, of),
            slow.as_secs_f64() / fast.as_secs_f64(),
            slow / 3,
            fast / 3,
        );
    }

    let token = routed.send("POST", None).await?;
    let (_, cost) = routed.measure("GET", token.as_deref()).await?;
    let of = u64::from(ROUNDS);
    println!(
        "read with a token: {:.3} statements, {:.3} token probes a request",
        per(cost.statements, of),
        per(cost.token_probes, of)
    );

    let before = Cost::of(&routed.engine.status());
    let writers = (0..CONCURRENT).map(async |_| {
        for _ in 0..EACH {
            routed.send("POST", None).await?;
        }
        Ok::<_, Box<dyn Error>>(())
    });
    let started = Instant::now();
    try_join_all(writers).await?;
    let (elapsed, cost) = (started.elapsed(), Cost::of(&routed.engine.status()).since(before));
    println!(
        "{CONCURRENT} concurrent writers: {:.3} token probes a write ({} writes in {elapsed:?})",
        per(cost.token_probes, cost.statements),
        cost.statements
    );
    alone.engine.close().await;
    routed.engine.close().await;
    cluster.stop().await;
    Ok(())
}
