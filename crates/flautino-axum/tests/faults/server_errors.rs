//! The server says no: each error reaches the caller as it is, and the connection is kept or thrown
//! away as its state demands.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use flautino::{Engine, Error, Handle, Health, IsolationLevel, TransactionOptions};
use flautino_cluster::{Cluster, Node};
use flautino_lab::{App, ask, config, end_sessions, open, sqlstate, status_of, wait_until};
use futures_util::future::join_all;
use sqlx::PgConnection;

use crate::common::{MAIN, REPLICAS, Rig, SLACK, cluster, create_table, routes};

/// An engine with one connection to each node, so that one that is kept is seen again.
async fn of_one(cluster: &Cluster, name: &str, timeout: Option<Duration>) -> Engine {
    let mut config = config(cluster, name);
    config.pool.max_connections = 1;
    config.main.statement_timeout = timeout;
    for node in config.extra_nodes.values_mut() {
        node.statement_timeout = timeout;
    }
    open(config).await
}

/// The server's process behind the node's only connection.
async fn process(db: &Handle, node: &str) -> i32 {
    let db = db.node(node).unwrap();
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&db).await.unwrap()
}

/// How many statements all nodes were sent.
fn sent(engine: &Engine) -> u64 {
    engine.status().nodes.iter().map(|node| node.statements).sum()
}

/// Whether a session of the app has been left in a transaction.
async fn is_in_a_transaction(node: &Node, name: &str) -> bool {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' \
         AND state LIKE 'idle in transaction%'"
    );
    ask::<i64>(node, &sql).await > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_too_long_is_57014_and_its_connection_is_kept() {
    let cluster = cluster(1).await;
    let timeout = Duration::from_secs(1);
    let engine = of_one(&cluster, "late", Some(timeout)).await;
    let db = engine.handle();
    let before = [process(&db, MAIN).await, process(&db, REPLICAS[0]).await];
    for sql in
        ["INSERT INTO entries SELECT 1 FROM (SELECT pg_sleep(20)) AS slept", "SELECT pg_sleep(20)"]
    {
        let (started, before) = (Instant::now(), sent(&engine));
        let failed = sqlx::query(sql).execute(&engine.handle()).await.unwrap_err();
        assert_eq!(sqlstate(&failed), "57014", "{failed}");
        let took = started.elapsed();
        assert!(took >= timeout && took < Duration::from_secs(10), "{sql} took {took:?}");
        assert_eq!(sent(&engine) - before, 1, "{sql} was run again elsewhere");
    }
    let mut transaction = db.begin().await.unwrap();
    sqlx::query("INSERT INTO entries VALUES (2)").execute(&mut transaction).await.unwrap();
    let failed = sqlx::query("SELECT pg_sleep(20)").execute(&mut transaction).await.unwrap_err();
    assert_eq!(sqlstate(&failed), "57014", "{failed}");
    let failed = transaction.commit().await.unwrap_err();
    assert!(matches!(Error::of(&failed), Some(Error::CommitAborted)), "{failed}");

    assert_eq!([process(&db, MAIN).await, process(&db, REPLICAS[0]).await], before);
    assert!(!is_in_a_transaction(cluster.primary(), "late").await);
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM entries").await, 0);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_server_ends_is_thrown_away() {
    let cluster = cluster(1).await;
    let engine = of_one(&cluster, "ended", None).await;
    let db = engine.handle();
    for (name, node) in [(MAIN, cluster.primary()), (REPLICAS[0], cluster.replica(0))] {
        let before = process(&db, name).await;
        end_sessions(node, &format!("pid = {before}")).await;
        // The next statement may be the one that finds out; nothing more than that.
        let named = db.node(name).unwrap();
        let _ = sqlx::query("SELECT 1").execute(&named).await;
        for _ in 0..5 {
            sqlx::query("SELECT 1").execute(&named).await.unwrap();
        }
        assert_ne!(process(&db, name).await, before);
        assert_eq!(status_of(&engine, name).health, Health::Up);
    }
    engine.close().await;
}

/// Adds to one row and then to the other, once both of the two hold their first; answers the
/// errors' codes.
async fn cross(engine: &Engine, options: &TransactionOptions) -> Vec<String> {
    let barrier = tokio::sync::Barrier::new(2);
    let ended = join_all([(1, 2), (2, 1)].map(async |(first, second)| {
        let mut met = false;
        let (barrier, met) = (&barrier, &mut met);
        let mut attempts = 0;
        loop {
            let mut transaction = engine.handle().begin().await.unwrap();
            let add = "UPDATE rows SET n = n + 1 WHERE id = $1";
            sqlx::query(add).bind(first).execute(&mut transaction).await.unwrap();
            if !*met {
                barrier.wait().await;
                *met = true;
            }
            match sqlx::query(add).bind(second).execute(&mut transaction).await {
                Ok(_) => {
                    transaction.commit().await.unwrap();
                    return String::new();
                }
                Err(error) if attempts >= options.retries => return sqlstate(&error),
                Err(_) => attempts += 1,
            }
        }
    }));
    ended.await
}

async fn with_rows(cluster: &Cluster) {
    let sql = "CREATE TABLE rows (id int, n int); INSERT INTO rows VALUES (1, 0), (2, 0)";
    cluster.primary().execute(sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_deadlock_one_is_40p01_and_both_connections_are_kept() {
    let cluster = cluster(0).await;
    with_rows(&cluster).await;
    let mut config = config(&cluster, "deadlock");
    config.pool.max_connections = 2;
    let engine = open(config).await;
    let pids = async || {
        let leases = [engine.handle().acquire().await, engine.handle().acquire().await];
        let mut pids = Vec::new();
        for lease in leases {
            let mut lease = lease.unwrap();
            let sql = "SELECT pg_backend_pid()";
            pids.push(sqlx::query_scalar::<_, i32>(sql).fetch_one(&mut lease).await.unwrap());
        }
        pids.sort_unstable();
        pids
    };
    let before = pids().await;
    let mut codes = cross(&engine, &TransactionOptions::default()).await;
    codes.sort_unstable();
    assert_eq!(codes, ["", "40P01"]);
    assert_eq!(pids().await, before, "a failed statement is no reason to throw a connection away");
    assert!(!is_in_a_transaction(cluster.primary(), "deadlock").await);
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT sum(n) FROM rows").await, 2);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_and_serialization_failures_are_retried_where_that_is_asked_for() {
    let cluster = cluster(0).await;
    with_rows(&cluster).await;
    let engine = flautino_lab::engine(&cluster, "retried").await;
    for isolation in [IsolationLevel::ReadCommitted, IsolationLevel::Serializable] {
        let before: i64 = ask(cluster.primary(), "SELECT sum(n) FROM rows").await;
        let options =
            TransactionOptions { isolation: Some(isolation), retries: 50, ..Default::default() };
        let adders = (0..8).map(|n| {
            let (db, options) = (engine.handle(), options.clone());
            let (first, second) = if n % 2 == 0 { (1, 2) } else { (2, 1) };
            let work = async move {
                db.transaction_with(options, async move |tx| {
                    let add = "UPDATE rows SET n = n + 1 WHERE id = $1";
                    sqlx::query(add).bind(first).execute(&mut *tx).await?;
                    sqlx::query("SELECT pg_sleep(0.01)").execute(&mut *tx).await?;
                    sqlx::query(add).bind(second).execute(&mut *tx).await.map(drop)
                })
                .await
            };
            tokio::spawn(work)
        });
        let adders: Vec<_> = adders.collect();
        for adder in adders {
            let done: Result<(), sqlx::Error> = adder.await.unwrap();
            done.unwrap_or_else(|error| panic!("{isolation:?}: {error}"));
        }
        let after: i64 = ask(cluster.primary(), "SELECT sum(n) FROM rows").await;
        assert_eq!(after - before, 16, "{isolation:?}");
    }
    assert!(!is_in_a_transaction(cluster.primary(), "retried").await);
    engine.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serialization_failure_is_40001_and_its_connection_is_kept() {
    let cluster = cluster(0).await;
    with_rows(&cluster).await;
    let engine = of_one(&cluster, "serial", None).await;
    let db = engine.handle();
    let before = process(&db, MAIN).await;
    let options = TransactionOptions {
        isolation: Some(IsolationLevel::RepeatableRead),
        ..TransactionOptions::default()
    };
    let mut transaction = db.begin_with(options).await.unwrap();
    let sql = "SELECT n FROM rows WHERE id = 1";
    let _: i32 = sqlx::query_scalar(sql).fetch_one(&mut transaction).await.unwrap();
    cluster.primary().execute("UPDATE rows SET n = 7 WHERE id = 1").await.unwrap();
    let update = sqlx::query("UPDATE rows SET n = n + 1 WHERE id = 1");
    let failed = update.execute(&mut transaction).await.unwrap_err();
    assert_eq!(sqlstate(&failed), "40001", "{failed}");
    let failed = transaction.commit().await.unwrap_err();
    assert!(matches!(Error::of(&failed), Some(Error::CommitAborted)), "{failed}");
    assert_eq!(process(&db, MAIN).await, before);
    assert_eq!(ask::<i32>(cluster.primary(), sql).await, 7);
    engine.close().await;
}

/// Takes every connection that the server has left.
async fn fill(node: &Node) -> Vec<PgConnection> {
    let mut taken = Vec::new();
    loop {
        match node.connect().await {
            Ok(connection) => taken.push(connection),
            Err(error) => {
                assert!(!taken.is_empty(), "{error}");
                return taken;
            }
        }
    }
}

async fn rig_of_few(name: &str) -> Rig {
    let builder = Cluster::builder().replicas(2).setting("max_connections", "20");
    let cluster = builder.start().await.unwrap();
    create_table(cluster.primary()).await;
    for replica in [0, 1] {
        cluster.replica(replica).catch_up_with(cluster.primary()).await.unwrap();
    }
    let config = config(&cluster, name);
    Rig::with(cluster, config).await
}

async fn all_are_up_while<T>(engine: &Engine, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                let status = engine.status();
                for node in &status.nodes {
                    assert_eq!(node.health, Health::Up, "{status:#?}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_at_max_connections_is_503_for_those_that_need_one_more_and_is_not_called_dead() {
    let rig = rig_of_few("full").await;
    let http = reqwest::Client::new();
    let store = |id: i64| http.post(format!("{}/ids/{id}", rig.app.url)).send();
    assert_eq!(store(1).await.unwrap().status(), 201);
    let taken = fill(rig.cluster.primary()).await;
    // All that the pool has.
    let mut held = Vec::new();
    for _ in 0..rig.engine.status().nodes[0].pool.unwrap().size {
        held.push(rig.engine.handle().acquire().await.unwrap());
    }
    let story = async {
        let started = Instant::now();
        let answers = join_all((2..8).map(store)).await;
        let mut stored = 1;
        for answer in answers {
            let answer = answer.unwrap();
            match answer.status().as_u16() {
                201 => stored += 1,
                503 => assert!(answer.headers().contains_key("retry-after"), "{answer:?}"),
                _ => panic!("{answer:?}"),
            }
        }
        println!("{stored} stored, after {:?}", started.elapsed());
        assert!(stored < 7, "nothing was short of connections, so this test tests nothing");
        // The default of `acquire_timeout`, once and not twice.
        assert!(started.elapsed() < Duration::from_secs(5) + 8 * SLACK, "{:?}", started.elapsed());
        for _ in 0..50 {
            sqlx::query("SELECT count(*) FROM entries")
                .execute(&rig.engine.handle())
                .await
                .unwrap();
        }
        stored
    };
    let stored = all_are_up_while(&rig.engine, story).await;
    drop(held);
    // What it has, it keeps and uses.
    wait_until("the connection it has is free", async || store(8).await.unwrap().status() == 201)
        .await;
    drop(taken);
    wait_until("the server has room again", async || {
        join_all((100..110).map(store)).await.into_iter().all(|a| a.unwrap().status() == 201)
    })
    .await;
    let now: i64 = ask(rig.cluster.primary(), "SELECT count(*) FROM entries WHERE id < 8").await;
    assert_eq!(now, stored, "what was told 503 was done, or what was told 201 was not");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_at_max_connections_costs_no_read_and_is_not_called_dead() {
    let rig = rig_of_few("full").await;
    let taken = fill(rig.cluster.replica(1)).await;
    let story = async {
        let started = Instant::now();
        let reads = (0..40).map(async |_| {
            let db = rig.engine.handle();
            sqlx::query("SELECT pg_sleep(0.05)").execute(&db).await
        });
        for read in join_all(reads).await {
            read.unwrap();
        }
        println!("forty reads took {:?}", started.elapsed());
    };
    all_are_up_while(&rig.engine, story).await;
    drop(taken);
    wait_until("it is used by many at once", async || {
        let db = rig.engine.handle().node(REPLICAS[1]).unwrap();
        join_all((0..8).map(|_| sqlx::query("SELECT pg_sleep(0.05)").execute(&db)))
            .await
            .iter()
            .all(Result::is_ok)
    })
    .await;
    rig.stop().await;
}

/// How much a file of that process may hold; no multiple of a page, so that a write is cut short as
/// on a full disk.
const ROOM: &str = "20971620";

/// Limits what the node's process may write; false where that cannot be done here.
fn limit_files(node: &Node, pid: i32, to: &str) -> bool {
    // The servers' own user may, where root in a container may not.
    let owner = std::fs::metadata(node.data_dir()).unwrap();
    let mut command = Command::new("prlimit");
    command.args([format!("--pid={pid}"), format!("--fsize={to}:")]);
    if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() != owner.uid()) {
        command.uid(owner.uid()).gid(owner.gid());
    }
    match command.status() {
        Ok(status) if status.success() => true,
        other => {
            println!("skipped: prlimit does not work here: {other:?}");
            false
        }
    }
}

/// Temporary files of that process find the disk full, from now on; they are not opened exclusively.
fn fill_temporary_files(node: &Node, pid: i32) -> PathBuf {
    let folder = node.data_dir().join("base/pgsql_tmp");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..50 {
        let path = folder.join(format!("pgsql_tmp{pid}.{number}"));
        std::os::unix::fs::symlink("/dev/full", path).unwrap();
    }
    folder
}

/// Some 40 MB.
const MUCH: &str = "INSERT INTO much SELECT repeat('x', 1000) FROM generate_series(1, 40000)";
const SORT: &str = "SELECT count(*) FROM (SELECT repeat(x::text, 300) AS r \
                    FROM generate_series(1, 30000) AS x ORDER BY r OFFSET 1) AS sorted";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_53100_and_the_connection_is_kept() {
    let cluster = cluster(1).await;
    cluster.primary().execute("CREATE UNLOGGED TABLE much (a text)").await.unwrap();
    cluster.replica(0).catch_up_with(cluster.primary()).await.unwrap();
    let engine = of_one(&cluster, "disk", None).await;
    wait_until("the replica is in use", async || status_of(&engine, REPLICAS[0]).reason.is_none())
        .await;
    let app = App::start(routes(&engine), engine.clone()).await;
    let db = engine.handle();
    let pids = [process(&db, MAIN).await, process(&db, REPLICAS[0]).await];
    let limit = |to| limit_files(cluster.primary(), pids[0], to);
    if !Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full here");
        return;
    }
    if !limit(ROOM) {
        return;
    }
    let failed = sqlx::query(MUCH).execute(&db).await.unwrap_err();
    if sqlstate(&failed) != "53100"
        && ask::<i32>(cluster.primary(), "SELECT current_setting('server_version_num')::int").await
            >= 160_000
    {
        println!("skipped: this server says {failed} to a limit, and not that its disk is full");
        return;
    }
    assert_eq!(sqlstate(&failed), "53100", "{failed}");
    let mut transaction = db.begin().await.unwrap();
    sqlx::query("INSERT INTO entries VALUES (1)").execute(&mut transaction).await.unwrap();
    let failed = sqlx::query(MUCH).execute(&mut transaction).await.unwrap_err();
    assert_eq!(sqlstate(&failed), "53100", "{failed}");
    let failed = transaction.commit().await.unwrap_err();
    assert!(matches!(Error::of(&failed), Some(Error::CommitAborted)), "{failed}");
    // A read that needs room for its sort.
    let full = fill_temporary_files(cluster.replica(0), pids[1]);
    let reader = engine.handle();
    let failed = sqlx::query(SORT).execute(&reader).await.unwrap_err();
    assert_eq!(sqlstate(&failed), "53100", "{failed}");
    assert_eq!(reader.served_by().as_deref(), Some(REPLICAS[0]));

    // What needs no room works, on the same connections.
    let stored = reqwest::Client::new().post(format!("{}/ids/2", app.url)).send().await.unwrap();
    assert_eq!(stored.status(), 201);
    assert_eq!([process(&db, MAIN).await, process(&db, REPLICAS[0]).await], pids);
    assert!(limit("unlimited"));
    std::fs::remove_dir_all(full).unwrap();
    sqlx::query(MUCH).execute(&db).await.unwrap();
    sqlx::query(SORT).execute(&engine.handle()).await.unwrap();
    assert_eq!([process(&db, MAIN).await, process(&db, REPLICAS[0]).await], pids);
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT sum(id)::int8 FROM entries").await, 2);
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM much").await, 40_000);
    app.stop().await;
}
