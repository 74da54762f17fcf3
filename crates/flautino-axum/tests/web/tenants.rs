//! Ten tenants and strangers by row-level security, five by a setting and five by a role, on a few connections,
//! while clients leave and sessions are ended: none ever sees another's row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_lab::{App, Lab, ask, catch_up};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::request::Parts;

const REQUESTS: usize = 1000;
const CONCURRENCY: usize = 32;
const OWNERS: &str = "SELECT owner FROM accounts";

/// What the handlers found, also those whose client is gone.
#[derive(Default)]
struct Found {
    own: AtomicUsize,
    foreign: AtomicUsize,
    /// Tenants that missed rows of their own.
    missing: AtomicUsize,
}

/// `None` is a stranger, who sees nothing.
#[derive(Clone)]
struct Tenant(Option<String>);

impl Tenant {
    /// Of ten, every second one is a role.
    fn settings(&self) -> Vec<(&'static str, String)> {
        match self.0.as_deref() {
            None => Vec::new(),
            Some(name) if name.as_bytes().last().unwrap() % 2 == 0 => {
                vec![("role", name.to_owned())]
            }
            Some(name) => vec![("app.tenant", name.to_owned())],
        }
    }
}

async fn authenticate(mut request: Request, next: Next) -> Response {
    let tenant = request.headers().get("x-tenant");
    let tenant = tenant.map(|tenant| tenant.to_str().unwrap().to_owned());
    request.extensions_mut().insert(Tenant(tenant));
    next.run(request).await
}

fn settings(request: &Parts) -> Vec<(&'static str, String)> {
    request.extensions.get::<Tenant>().map(Tenant::settings).unwrap_or_default()
}

type Handler = (State<Arc<Found>>, axum::Extension<Tenant>);

/// Checks what a handler saw.
fn check((State(found), axum::Extension(tenant)): &Handler, owners: &[String]) {
    let own = owners.iter().filter(|owner| Some(*owner) == tenant.0.as_ref()).count();
    found.own.fetch_add(own, Ordering::Relaxed);
    found.foreign.fetch_add(owners.len() - own, Ordering::Relaxed);
    if tenant.0.is_some() && own < 3 {
        found.missing.fetch_add(1, Ordering::Relaxed);
    }
}

async fn read(handler: Handler, db: Db) -> Result<(), DbError> {
    check(&handler, &sqlx::query_scalar(OWNERS).fetch_all(&db).await?);
    Ok(())
}

async fn slow(handler: Handler, db: Db) -> Result<(), DbError> {
    let sql = "SELECT owner FROM accounts, pg_sleep(0.05)";
    check(&handler, &sqlx::query_scalar(sql).fetch_all(&db).await?);
    Ok(())
}

async fn streamed(handler: Handler, db: Db) -> Result<(), DbError> {
    let owners: Vec<String> = sqlx::query_scalar(OWNERS).fetch(&db).try_collect().await?;
    check(&handler, &owners);
    Ok(())
}

async fn leased(handler: Handler, db: Db) -> Result<(), DbError> {
    let mut lease = db.acquire().await?;
    check(&handler, &sqlx::query_scalar(OWNERS).fetch_all(&mut *lease).await?);
    Ok(())
}

/// A tenant of its own making, as a careless function would leave it behind.
async fn careless(handler: Handler, db: Db) -> Result<(), DbError> {
    let mut lease = db.acquire().await?;
    check(&handler, &sqlx::query_scalar(OWNERS).fetch_all(&mut lease).await?);
    sqlx::query("SELECT set_config('app.tenant', 'tenant_1', false)").execute(&mut lease).await?;
    Ok(())
}

async fn write(handler: Handler, db: Db) -> Result<(), DbError> {
    let (_, axum::Extension(Tenant(tenant))) = &handler;
    let Some(tenant) = tenant else { return Ok(()) };
    sqlx::query("INSERT INTO accounts VALUES ($1)").bind(tenant).execute(&db).await?;
    check(&handler, &sqlx::query_scalar(OWNERS).fetch_all(&db).await?);
    Ok(())
}

async fn transaction(handler: Handler, mut tx: Tx) -> Result<StatusCode, DbError> {
    check(&handler, &sqlx::query_scalar(OWNERS).fetch_all(&mut tx).await?);
    check(&handler, &sqlx::query_scalar(OWNERS).fetch_all(&mut tx).await?);
    // Rolled back.
    Ok(StatusCode::CONFLICT)
}

fn app(engine: &Engine, found: &Arc<Found>) -> Router {
    Router::new()
        .route("/read", get(read))
        .route("/slow", get(slow))
        .route("/streamed", get(streamed))
        .route("/leased", get(leased))
        .route("/careless", get(careless))
        .route("/write", post(write))
        .route("/transaction", post(transaction))
        .with_state(Arc::clone(found))
        .layer(from_fn(authenticate))
        .layer(EngineLayer::new(engine.clone()).settings(settings))
}

async fn lab() -> Lab {
    let lab = Lab::named("tenants")
        .replicas(2)
        .table("accounts (owner text)")
        .as_role("app")
        .connections(3)
        .config(|config| {
            config.pool.acquire_timeout = Duration::from_secs(60);
            config.routing.retries = 7;
        })
        .start_closed()
        .await;
    let mut sql = String::from(
        "ALTER TABLE accounts ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY own ON accounts USING (owner = CASE current_user WHEN 'app' \
            THEN current_setting('app.tenant', true) ELSE current_user END);",
    );
    for n in 0..10 {
        sql += &format!(
            "CREATE ROLE tenant_{n}; GRANT ALL ON accounts TO tenant_{n}; GRANT tenant_{n} TO app; \
             INSERT INTO accounts SELECT 'tenant_{n}' FROM generate_series(1, 3);"
        );
    }
    lab.primary().execute(&sql).await.unwrap();
    catch_up(&lab.cluster).await;
    lab.engine.open().await.unwrap();
    lab.until_served_by(&["read_replica_1", "read_replica_2"]).await;
    lab
}

/// One request of the mixture; whether its client stayed for the answer, and whether that was a success.
async fn request(client: &reqwest::Client, url: &str, n: usize) -> Option<bool> {
    let (method, path) = match n % 7 {
        0 => ("POST", "write"),
        1 => ("POST", "transaction"),
        2 => ("GET", "slow"),
        3 => ("GET", "streamed"),
        4 => ("GET", "leased"),
        5 => ("GET", "careless"),
        _ => ("GET", "read"),
    };
    let request = client.request(method.parse().unwrap(), format!("{url}/{path}"));
    let request = match n % 11 {
        10 => request,
        tenant => request.header("x-tenant", format!("tenant_{tenant}")),
    };
    let patience = match n % 5 {
        0 => Duration::from_millis((n % 60) as u64),
        _ => Duration::from_secs(60),
    };
    let status = tokio::time::timeout(patience, request.send()).await.ok()?.unwrap().status();
    Some(status.is_success() || status == StatusCode::CONFLICT)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_mixed_requests_see_no_row_of_another_tenant() {
    let lab = lab().await;
    let found = Arc::new(Found::default());
    let app = App::start(app(&lab.engine, &found), lab.engine.clone()).await;
    let client = reqwest::Client::new();
    let over = AtomicBool::new(false);
    let load = async {
        let requests = (0..REQUESTS).map(|n| request(&client, &app.url, n));
        let told: Vec<_> = stream::iter(requests).buffer_unordered(CONCURRENCY).collect().await;
        over.store(true, Ordering::Relaxed);
        told
    };
    // Replicas lose sessions in the middle of statements, which are run again elsewhere.
    let ended = async {
        let mut ended = 0;
        while !over.load(Ordering::Relaxed) {
            for replica in lab.cluster.nodes().skip(1) {
                let sql = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM \
                           (SELECT pid FROM pg_stat_activity WHERE application_name = 'tenants' \
                            AND query LIKE '%pg_sleep%' AND state = 'active' LIMIT 1) AS one";
                ended += ask::<i64>(replica, sql).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ended
    };
    let (told, ended) = tokio::join!(load, ended);
    let left = told.iter().filter(|told| told.is_none()).count();
    let failed = told.iter().filter(|told| **told == Some(false)).count();
    let status = lab.engine.status();
    let statements: Vec<_> = status.nodes.iter().map(|node| node.statements).collect();
    let (own, foreign) = (found.own.load(Ordering::Relaxed), found.foreign.load(Ordering::Relaxed));
    println!(
        "{REQUESTS} requests at {CONCURRENCY}: {left} clients left, {failed} failed, {ended} sessions ended; \
         statements by node {statements:?}; decisions {:?}; own rows {own}, others' {foreign}",
        status.decisions
    );
    assert_eq!(foreign, 0, "rows of another tenant were seen");
    assert_eq!(found.missing.load(Ordering::Relaxed), 0, "own rows were not seen");
    assert_eq!(failed, 0);
    assert!(own > 1000 && left > 20 && ended > 0, "the mixture was too thin");
    assert!(statements.iter().all(|count| *count > 100), "{statements:?}");
    app.stop().await;
}
