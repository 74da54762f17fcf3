//! The real PgBouncer in transaction mode, between the engine and the server. What a test asks of
//! the engine alone, it asks with `pgbouncer = true` and the server itself.

use flautino::{Engine, EngineConfig, Handle, NodeConfig};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{Bouncer, ask, cluster, config, open, polled_at_most, sqlstate, wait_until};
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Row, SqlStr};

fn url(bouncer: &Bouncer) -> String {
    format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", bouncer.port)
}

fn through(bouncer: &Bouncer) -> EngineConfig {
    let mut config = EngineConfig::from_url(&url(bouncer)).unwrap();
    config.main.pgbouncer = true;
    config.pool.max_connections = 32;
    config.pool.acquire_timeout = std::time::Duration::from_secs(30);
    config.extensions.clear();
    config
}

/// An engine through PgBouncer; `None` where it is not installed, which fails under `CI=true`.
async fn start(node: &Node) -> Option<(Bouncer, Engine)> {
    let bouncer = Bouncer::start(node).await?;
    let config = through(&bouncer);
    let engine = open(config).await;
    Some((bouncer, engine))
}

/// Of eight; each of 32 workers meets all of them.
fn kind(n: i32) -> i32 {
    (n + n / 32) % 8
}

/// One of eight kinds of work; each checks what it is answered.
async fn work(db: &Handle, n: i32) -> Result<(), sqlx::Error> {
    match kind(n) {
        0 => {
            let sum: i32 = sqlx::query_scalar("SELECT $1::int4 + 1").bind(n).fetch_one(db).await?;
            assert_eq!(sum, n + 1);
        }
        1 => {
            let id: i32 = sqlx::query_scalar("INSERT INTO t VALUES ($1, $2) RETURNING id")
                .bind(n)
                .bind(format!("text {n}"))
                .fetch_one(db)
                .await?;
            assert_eq!(id, n);
            let done = sqlx::query("UPDATE t SET a = $2 WHERE id = $1")
                .bind(n)
                .bind(format!("new {n}"))
                .execute(db)
                .await?;
            assert_eq!(done.rows_affected(), 1);
            let text: Option<String> = sqlx::query_scalar("SELECT a FROM t WHERE id = $1")
                .bind(n)
                .fetch_optional(db)
                .await?;
            assert_eq!(text.unwrap(), format!("new {n}"));
        }
        2 => {
            let rows: Vec<i32> =
                sqlx::query_scalar::<_, i32>("SELECT generate_series($1::int4, $1 + 99)")
                    .bind(n)
                    .fetch(db)
                    .try_collect()
                    .await?;
            assert!(rows.into_iter().eq(n..n + 100));
        }
        3 => {
            let done = sqlx::raw_sql("SELECT 1; SELECT 2; SELECT 3").execute(db).await?;
            assert_eq!(done.rows_affected(), 3);
            let plain: Vec<(i32,)> = sqlx::query_as("VALUES (1), (2)").fetch_all(db).await?;
            assert_eq!(plain, [(1,), (2,)]);
        }
        4 | 5 => {
            let mut tx = db.begin().await?;
            sqlx::query("INSERT INTO t VALUES ($1, 'tx')").bind(n).execute(&mut tx).await?;
            let count: i64 = sqlx::query_scalar("SELECT count(*) FROM t WHERE id = $1")
                .bind(n)
                .fetch_one(&mut tx)
                .await?;
            assert_eq!(count, 1);
            if kind(n) == 4 { tx.commit().await? } else { tx.rollback().await? }
        }
        6 => {
            let mut tx = db.begin().await?;
            sqlx::query("INSERT INTO t VALUES ($1, 'kept')").bind(n).execute(&mut tx).await?;
            let mut savepoint = tx.savepoint().await?;
            let twice = sqlx::query("INSERT INTO t VALUES ($1, 'twice')").bind(n);
            assert_eq!(sqlstate(&twice.execute(&mut savepoint).await.unwrap_err()), "23505");
            savepoint.rollback().await?;
            tx.commit().await?;
        }
        _ => {
            let err = sqlx::query("SELECT 1 / $1::int4").bind(0).execute(db).await.unwrap_err();
            assert_eq!(sqlstate(&err), "22012");
            db.transaction(async |tx| {
                sqlx::query("INSERT INTO t VALUES ($1, 'closure')").bind(n).execute(&mut *tx).await
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_mixed_statements_and_transactions_at_concurrency_32_give_no_wrong_result() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    node.execute("CREATE TABLE t (id int PRIMARY KEY, a text)").await.unwrap();
    let Some((_bouncer, engine)) = start(node).await else { return };
    let db = engine.handle();
    let workers = (0..32).map(|worker| {
        let db = db.clone();
        async move {
            for n in (worker..1024).step_by(32) {
                work(&db, n).await.unwrap_or_else(|err| panic!("{n}: {err}"));
            }
        }
    });
    join_all(workers).await;
    let expected: Vec<i32> = (0..1024).filter(|n| matches!(kind(*n), 1 | 4 | 6 | 7)).collect();
    let stored: Vec<i32> = ask(node, "SELECT array_agg(id ORDER BY id) FROM t").await;
    assert_eq!(stored, expected);
    let servers = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'postgres' \
                   AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    wait_until("all went through PgBouncer", async || ask::<i64>(node, servers).await <= 5).await;
    engine.close().await;
}

#[tokio::test]
async fn utility_commands_and_abandoned_statements_work_through_it_too() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    let Some((_bouncer, engine)) = start(node).await else { return };
    let db = engine.handle();
    for sql in ["CREATE TABLE u (a int)", "VACUUM u", "CREATE INDEX CONCURRENTLY i ON u (a)"] {
        sqlx::query(sql).execute(&db).await.unwrap_or_else(|err| panic!("{sql}: {err}"));
    }
    for polls in 0..40_usize {
        let abandoned = sqlx::query("SELECT pg_sleep(0.01), $1::int4").bind(1).execute(&db);
        let _ = polled_at_most(polls % 6, abandoned).await;
        let begun = polled_at_most(polls % 4, db.begin()).await;
        drop(begun);
        let n = i32::try_from(polls).unwrap();
        let same: i32 = sqlx::query_scalar("SELECT $1::int4").bind(n).fetch_one(&db).await.unwrap();
        assert_eq!(same, n);
    }
    wait_until("no transaction is left open", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
        ask::<i64>(node, sql).await == 0
    })
    .await;
    engine.close().await;
}

#[tokio::test]
async fn the_monitor_leaves_nothing_in_sessions_that_others_share() {
    let cluster = cluster(1).await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let Some(bouncer) = Bouncer::start(cluster.primary()).await else { return };
    let mut config = through(&bouncer);
    let replica = NodeConfig { url: Some(cluster.replica(0).url()), ..NodeConfig::default() };
    config.extra_nodes.insert("replica".to_owned(), replica);
    let engine = open(config).await;
    for _ in 0..20 {
        let db = engine.handle();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&db).await.unwrap();
        assert!(db.token().await.is_some());
    }
    engine.close().await;
    // As many at once as there are servers.
    let looks = (0..5).map(async |_| {
        let options: PgConnectOptions = url(&bouncer).parse().unwrap();
        // PgBouncer refuses it at the start.
        let mut connection = options.extra_float_digits(None).connect().await.unwrap();
        let sql = "SELECT current_setting('statement_timeout') || \
                       (SELECT count(*) FROM pg_prepared_statements) FROM pg_sleep(0.5)";
        let row = sqlx::raw_sql(sql).fetch_one(&mut connection).await.unwrap();
        row.get::<String, _>(0)
    });
    assert_eq!(join_all(looks).await, ["00"; 5]);
}

/// An engine as for PgBouncer, with one connection to the server itself.
async fn straight(cluster: &Cluster, name: &str) -> Engine {
    let mut config = config(cluster, name);
    config.main.pgbouncer = true;
    config.pool.max_connections = 1;
    open(config).await
}

#[tokio::test]
async fn a_write_after_a_half_read_stream_on_a_lease_is_committed() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    node.execute("CREATE TABLE t (a int)").await.unwrap();
    let engine = straight(&cluster, "half_read").await;
    let mut lease = engine.handle().acquire().await.unwrap();
    for rows in [5_i32, 100_000] {
        let series = sqlx::query("SELECT generate_series(1, $1)").bind(rows);
        series.fetch(&mut lease).try_next().await.unwrap();
        let insert = sqlx::query("INSERT INTO t VALUES ($1)").bind(rows);
        assert_eq!(insert.execute(&mut lease).await.unwrap().rows_affected(), 1);
    }
    // One that fails when its first rows were given out.
    let fails = sqlx::query("SELECT 1 / ($1 - n) FROM generate_series(0, 9999) n").bind(5000_i32);
    fails.fetch(&mut lease).try_next().await.unwrap();
    sqlx::query("INSERT INTO t VALUES ($1)").bind(0).execute(&mut lease).await.unwrap();
    drop(lease);
    assert_eq!(ask::<Vec<i32>>(node, "SELECT array_agg(a) FROM t").await, [5, 100_000, 0]);
    engine.close().await;
}

#[tokio::test]
async fn a_write_after_a_statement_dropped_at_any_point_on_a_lease_is_committed() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    node.execute("CREATE TABLE t (a int)").await.unwrap();
    let engine = straight(&cluster, "points").await;
    let mut dropped = 0;
    for polls in 1..12_i32 {
        for prepares in [false, true] {
            let mut lease = engine.handle().acquire().await.unwrap();
            let times = usize::try_from(polls).unwrap();
            let ended = if prepares {
                let sql = SqlStr::from_static("SELECT $1::int4");
                let prepared = sqlx::Executor::prepare(&mut lease, sql);
                polled_at_most(times, prepared).await.is_some()
            } else {
                let slow = sqlx::query("SELECT pg_sleep(0.01), $1::int4").bind(polls);
                polled_at_most(times, slow.execute(&mut lease)).await.is_some()
            };
            dropped += i32::from(!ended);
            let insert = sqlx::query("INSERT INTO t VALUES ($1)").bind(polls);
            insert.execute(&mut lease).await.unwrap();
            // Seen by others at once, and so not in a transaction that is open still.
            let count = format!("SELECT count(*) FROM t WHERE a = {polls}");
            assert_eq!(ask::<i64>(node, &count).await, 1 + i64::from(prepares), "{polls}");
        }
    }
    // On a busy machine most answers are there when they are looked for; not that of the sleep.
    assert!(dropped >= 1, "{dropped}");
    engine.close().await;
}

#[tokio::test]
async fn a_transaction_of_the_user_s_own_on_a_lease_stays_as_it_is() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    node.execute("CREATE TABLE t (a int)").await.unwrap();
    let engine = straight(&cluster, "own").await;
    let mut lease = engine.handle().acquire().await.unwrap();
    sqlx::raw_sql("BEGIN; INSERT INTO t VALUES (1)").execute(&mut lease).await.unwrap();
    sqlx::raw_sql("SELECT generate_series(1, 10000); SELECT 2")
        .fetch(&mut lease)
        .try_next()
        .await
        .unwrap();
    sqlx::raw_sql("ROLLBACK").execute(&mut lease).await.unwrap();
    drop(lease);
    assert_eq!(ask::<i64>(node, "SELECT count(*) FROM t").await, 0);
    engine.close().await;
}

#[tokio::test]
async fn a_write_that_is_refused_at_its_commit_does_not_fail_the_next_statement() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    node.execute("CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)").await.unwrap();
    let engine = straight(&cluster, "deferred").await;
    let db = engine.handle();
    let insert = async || sqlx::query("INSERT INTO t VALUES ($1)").bind(1).execute(&db).await;
    insert().await.unwrap();
    assert_eq!(sqlstate(&insert().await.unwrap_err()), "23505");
    let two: i32 = sqlx::query_scalar("SELECT $1::int4").bind(2).fetch_one(&db).await.unwrap();
    assert_eq!(two, 2);
    engine.close().await;
}
