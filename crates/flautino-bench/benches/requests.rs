//! Whole requests on a real cluster of a primary and two replicas, through the layer.
//!
//! Counts are statements at the servers for each request, and token probes for each write; they do not
//! depend on the machine. Times are ratios of two engines that are measured in turns in one run: one
//! over the primary alone, and one over all three nodes.

use std::error::Error;
use std::ops::AddAssign;
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

/// Requests of one measurement.
const ROUNDS: u32 = 2_000;
/// How often each app is measured.
const REPEATS: u32 = 3;
const WRITERS: usize = 64;
const WRITES_EACH: u32 = 50;

async fn write(db: Db) -> Result<(), DbError> {
    sqlx::query("UPDATE counters SET n = n + 1 WHERE id = $1")
        .bind(random_id())
        .execute(&db)
        .await?;
    Ok(())
}

/// One of a thousand rows, so that writers do not wait for each other.
fn random_id() -> i32 {
    fastrand::i32(0..1000)
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

    /// Sends a request. Returns the token that came with the response.
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

    /// Sends requests one after the other. Returns the mean time of one, and the cost of all.
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

/// What requests cost at the servers.
#[derive(Clone, Copy, Default)]
struct Cost {
    statements: u64,
    token_probes: u64,
}

impl Cost {
    fn of(status: &EngineStatus) -> Self {
        Self {
            statements: status.nodes.iter().map(|node| node.statements).sum(),
            token_probes: status
                .nodes
                .iter()
                .map(|node| node.token_probes + node.position_probes)
                .sum(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            statements: self.statements - before.statements,
            token_probes: self.token_probes - before.token_probes,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.statements += other.statements;
        self.token_probes += other.token_probes;
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn per(count: u64, of: u64) -> f64 {
    count as f64 / of as f64
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder().replicas(2).start().await?;
    let (alone, routed) = apps(&cluster).await?;
    for (name, method) in [("write", "POST"), ("read", "GET")] {
        compare(name, method, &alone, &routed).await?;
    }
    reads_with_a_token(&routed).await?;
    concurrent_writers(&routed).await?;
    alone.engine.close().await;
    routed.engine.close().await;
    cluster.stop().await;
    Ok(())
}

/// An app over the primary alone, and one over all nodes.
async fn apps(cluster: &Cluster) -> Result<(App, App), Box<dyn Error>> {
    let primary = cluster.primary();
    let table = "CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); \
                 INSERT INTO counters (id) SELECT generate_series(0, 999)";
    primary.execute(table).await?;
    let mut config = EngineConfig::from_url(&primary.url())?;
    config.extensions.clear();
    let alone = App::new(config.clone()).await?;
    for number in 0..2 {
        cluster.replica(number).catch_up_with(primary).await?;
        let url = Some(cluster.replica(number).url());
        let node = NodeConfig { url, ..NodeConfig::default() };
        config.extra_nodes.insert(format!("replica_{number}"), node);
    }
    Ok((alone, App::new(config).await?))
}

/// Measures both apps in turns.
async fn compare(
    name: &str,
    method: &str,
    alone: &App,
    routed: &App,
) -> Result<(), Box<dyn Error>> {
    // The first round of each is not measured, since it opens connections.
    alone.measure(method, None).await?;
    routed.measure(method, None).await?;
    let (mut of_routed, mut of_alone) = (Duration::ZERO, Duration::ZERO);
    let mut cost = Cost::default();
    for _ in 0..REPEATS {
        of_alone += alone.measure(method, None).await?.0;
        let (elapsed, one) = routed.measure(method, None).await?;
        of_routed += elapsed;
        cost += one;
    }
    let requests = u64::from(ROUNDS * REPEATS);
    println!(
        "{name}: {:.3} statements, {:.3} token probes a request; {:.2} times as long as without \
         replicas ({:?} to {:?})",
        per(cost.statements, requests),
        per(cost.token_probes, requests),
        of_routed.as_secs_f64() / of_alone.as_secs_f64(),
        of_routed / REPEATS,
        of_alone / REPEATS,
    );
    Ok(())
}

async fn reads_with_a_token(routed: &App) -> Result<(), Box<dyn Error>> {
    let token = routed.send("POST", None).await?;
    let (_, cost) = routed.measure("GET", token.as_deref()).await?;
    let requests = u64::from(ROUNDS);
    println!(
        "read with a token: {:.3} statements, {:.3} token probes a request",
        per(cost.statements, requests),
        per(cost.token_probes, requests)
    );
    Ok(())
}

async fn concurrent_writers(routed: &App) -> Result<(), Box<dyn Error>> {
    let before = Cost::of(&routed.engine.status());
    let writers = (0..WRITERS).map(async |_| {
        for _ in 0..WRITES_EACH {
            routed.send("POST", None).await?;
        }
        Ok::<_, Box<dyn Error>>(())
    });
    let started = Instant::now();
    try_join_all(writers).await?;
    let (elapsed, cost) = (started.elapsed(), Cost::of(&routed.engine.status()).since(before));
    println!(
        "{WRITERS} concurrent writers: {:.3} token probes a write ({} writes in {elapsed:?})",
        per(cost.token_probes, cost.statements),
        cost.statements
    );
    Ok(())
}
