//! The hooks of an app's own pool run between every two users, in the task of the one who asks.

use std::sync::Arc;
use std::time::Duration;

use flautino::{AcquireStep, Engine, Error, Handle, PoolConfig};
use flautino_cluster::Cluster;
use flautino_lab::{cluster, pid, sessions_of, until_sessions, wait_until};
use futures_util::future::join_all;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Acquire, Executor, PgPool};

const WHO: &str = "SELECT coalesce(current_setting('app.who', true), '')";

tokio::task_local! {
    static TENANT: String;
}

async fn set_tenant(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let who = TENANT.try_with(String::clone).unwrap_or_else(|_| "nobody".to_owned());
    let set = sqlx::query("SELECT set_config('app.who', $1, false)").bind(who);
    set.execute(connection).await.map(drop)
}

/// What was done with connections: `+` for one that was taken, `-` for one that was given back.
type Log = Arc<Mutex<String>>;

/// Its hooks set the tenant of whoever asks, and take it away again.
fn options(log: &Log) -> PgPoolOptions {
    let [connected, taken, given_back] = [(); 3].map(|()| Arc::clone(log));
    PgPoolOptions::new()
        .after_connect(move |connection, _| {
            connected.lock().push('+');
            Box::pin(set_tenant(connection))
        })
        .before_acquire(move |connection, _| {
            taken.lock().push('+');
            Box::pin(async move { set_tenant(connection).await.map(|()| true) })
        })
        .after_release(move |connection, _| {
            given_back.lock().push('-');
            Box::pin(async move { connection.execute("RESET app.who").await.map(|_| true) })
        })
}

async fn pool(cluster: &Cluster, max: u32, log: &Log) -> PgPool {
    let server = cluster.primary().connect_options().application_name("pool");
    options(log).max_connections(max).connect_with(server).await.unwrap()
}

async fn who(executor: impl sqlx::PgExecutor<'_>) -> String {
    sqlx::query_scalar(WHO).fetch_one(executor).await.unwrap()
}

/// Asks in each way that takes a connection.
async fn in_all_ways(db: &Handle) -> Vec<String> {
    let mut tenants = vec![who(db).await];
    let mut tx = db.begin().await.unwrap();
    tenants.push(who(&mut tx).await);
    tx.commit().await.unwrap();
    let mut tx = Acquire::begin(db).await.unwrap();
    tenants.push(who(&mut *tx).await);
    tx.commit().await.unwrap();
    let read = db.transaction(async |tx| Ok::<_, sqlx::Error>(who(tx).await)).await.unwrap();
    tenants.push(read);
    let mut lease = db.acquire().await.unwrap();
    tenants.push(who(&mut lease).await);
    tenants
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_user_has_its_own_tenant_and_never_another_s() {
    let cluster = cluster(0).await;
    let log = Log::default();
    let pool = pool(&cluster, 2, &log).await;
    let engine = Engine::from_pool(pool.clone());
    let users = (0..8).map(|user| {
        let (engine, pool) = (engine.clone(), pool.clone());
        let user = format!("user {user}");
        tokio::spawn(TENANT.scope(user.clone(), async move {
            for round in 0..10 {
                // Some leave before they have one.
                let patience = Duration::from_micros(round * 150);
                let _ = tokio::time::timeout(patience, who(&engine.handle())).await;
                for tenant in in_all_ways(&engine.handle()).await {
                    assert_eq!(tenant, user);
                }
                assert_eq!(who(&pool).await, user);
            }
        }))
    });
    for user in join_all(users).await {
        user.unwrap();
    }
    engine.close().await;
}

#[tokio::test]
async fn after_release_and_before_acquire_run_between_every_two_users() {
    let cluster = cluster(0).await;
    let log = Log::default();
    let engine = Engine::from_pool(pool(&cluster, 1, &log).await);
    let db = engine.handle();
    until_sessions(cluster.primary(), "pool", 1).await;
    log.lock().clear();
    // All but the first wait for the one connection.
    let all = join_all((0..5).map(|_| who(&db))).await;
    assert_eq!(all, ["nobody"; 5]);
    let mut tx = db.begin().await.unwrap();
    who(&mut tx).await;
    who(&mut tx).await;
    tx.rollback().await.unwrap();
    wait_until("all is given back", async || log.lock().ends_with('-')).await;
    assert_eq!(*log.lock(), "+-+-+-+-+-+-");
    assert_eq!(sessions_of(cluster.primary(), "pool").await, 1);
    engine.close().await;
}

#[tokio::test]
async fn who_left_the_queue_is_lent_nothing_and_keeps_nobody_waiting() {
    let cluster = cluster(0).await;
    let log = Log::default();
    let pool = pool(&cluster, 1, &log).await;
    let engine = Engine::from_pool(pool.clone());
    let held = pool.acquire().await.unwrap();
    log.lock().clear();
    let db = engine.handle();
    for _ in 0..5 {
        let left = tokio::time::timeout(Duration::from_millis(20), who(&db)).await;
        assert!(left.is_err());
    }
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await }
    });
    drop(held);
    let next = next.await.unwrap().unwrap();
    assert_eq!(*log.lock(), "-+", "nobody but the next one was lent it");
    drop(next);
    assert_eq!(who(&db).await, "nobody");
    engine.close().await;
}

#[tokio::test]
async fn one_that_others_use_up_says_so() {
    let cluster = cluster(0).await;
    let server = cluster.primary().connect_options();
    let short = PgPoolOptions::new().acquire_timeout(Duration::from_millis(300)).max_connections(1);
    let pool = short.connect_with(server).await.unwrap();
    let engine = Engine::from_pool(pool.clone());
    let held = pool.acquire().await.unwrap();
    let db = engine.handle();
    let err = sqlx::query("SELECT 1").execute(&db).await.unwrap_err();
    let Some(Error::AcquireTimeout { step, in_use, max, .. }) = Error::of(&err) else {
        panic!("{err:?}");
    };
    assert_eq!((*step, *in_use, *max), (AcquireStep::WaitingForAppPool, 1, 1));
    assert!(!err.to_string().contains("server is up"), "{err}");
    drop(held);
    // And one that it uses up itself.
    let nested = db.transaction(async |_| db.begin().await).await.unwrap_err();
    assert!(nested.to_string().contains("hold 1 of them"), "{nested}");
    engine.close().await;
}

#[tokio::test]
async fn limits_and_hooks_survive_close_and_open() {
    let cluster = cluster(0).await;
    let log = Log::default();
    let server = cluster.primary().connect_options().application_name("pool");
    let timeout = Duration::from_millis(400);
    let options = options(&log).max_connections(2).acquire_timeout(timeout);
    let engine = Engine::from_pool(options.connect_with(server).await.unwrap());
    for opened in 0..3 {
        let db = engine.handle();
        for user in ["ann", "ben"] {
            for tenant in TENANT.scope(user.to_owned(), in_all_ways(&db)).await {
                assert_eq!(tenant, user);
            }
        }
        let leases = [db.acquire().await.unwrap(), db.acquire().await.unwrap()];
        let err = db.acquire().await.unwrap_err();
        let Some(Error::AcquireTimeout { max, waited, .. }) = Error::of(&err) else {
            panic!("{err:?}");
        };
        assert_eq!(*max, 2);
        assert!(*waited < timeout * 10, "the pool's own time, and not thirty seconds: {waited:?}");
        assert_eq!(sessions_of(cluster.primary(), "pool").await, 2);
        let beside = engine.pool("main").unwrap();
        assert_eq!((beside.options().get_max_connections(), beside.is_closed()), (2, false));
        drop(leases);
        assert_eq!(engine.status().nodes[0].pool.unwrap().max, 2);
        assert!(engine.close().await.was_open);
        until_sessions(cluster.primary(), "pool", 0).await;
        assert!(beside.is_closed());
        // What the app cannot have is said.
        let report = match opened {
            0 => engine.open().await.unwrap(),
            _ => engine
                .open_with(PoolConfig { max_connections: 7, ..PoolConfig::default() })
                .await
                .unwrap(),
        };
        let said = report.warnings.iter().any(|warning| warning.contains("open_with"));
        assert_eq!(said, opened > 0, "{report:?}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_lease_gives_its_connection_back_unless_it_changed_its_session() {
    let cluster = cluster(0).await;
    let log = Log::default();
    let engine = Engine::from_pool(pool(&cluster, 1, &log).await);
    let db = engine.handle();
    let before = pid(&db).await;
    log.lock().clear();
    for _ in 0..3 {
        let mut lease = db.acquire().await.unwrap();
        let own: i32 =
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut lease).await.unwrap();
        assert_eq!(own, before);
    }
    wait_until("all is given back", async || log.lock().ends_with('-')).await;
    assert!(log.lock().ends_with("+-+-+-"), "{}", log.lock());
    for leaves in ["SET app.who = 'me'", "BEGIN", "SELECT 1; SELECT pg_advisory_lock(1)"] {
        let before = pid(&db).await;
        let mut lease = db.acquire().await.unwrap();
        sqlx::raw_sql(leaves).execute(&mut lease).await.unwrap();
        drop(lease);
        assert_eq!(who(&db).await, "nobody", "{leaves}");
        assert_ne!(pid(&db).await, before, "{leaves}");
    }
    engine.close().await;
}
