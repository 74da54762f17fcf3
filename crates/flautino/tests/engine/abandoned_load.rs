//! A thousand statements abandoned in five seconds, on a pool that others read from meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flautino::Handle;
use flautino_lab::{Lab, pid, sessions_begun, wait_until};

/// Nobody waits for its end: what is not cancelled is seen to go on.
const SLEEP: &str = "SELECT pg_sleep(60)";
const PATIENCE: Duration = Duration::from_millis(50);
const ABANDONED: u64 = 1000;
const READERS: i64 = 4;
/// Two seconds were promised; the rest is for a machine that has others to serve.
const SOON: Duration = Duration::from_secs(10);

/// Reads until it is told to stop; answers how often.
async fn read(db: Handle, stop: Arc<AtomicBool>, reader: i64) -> i64 {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let sum = sqlx::query_scalar::<_, i64>("SELECT $1::int8 + $2").bind(reader).bind(number);
        let sum = sum.fetch_one(&db).await.unwrap_or_else(|error| panic!("read {number}: {error}"));
        assert_eq!(sum, reader + number);
    }
    number
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_abandoned_statements_cost_few_sessions_and_no_read() {
    let lab =
        Lab::named("storm").behind_proxy().connections(16).without_client_check().start().await;
    let mut watcher = lab.primary().connect().await.unwrap();
    let begun = sessions_begun(lab.primary(), "storm");
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|reader| tokio::spawn(read(lab.db.clone(), Arc::clone(&stop), reader)))
        .collect();

    let mut clients = Vec::new();
    for _ in 0..ABANDONED {
        let db = lab.db.clone();
        clients.push(tokio::spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, sqlx::query(SLEEP).execute(&db)).await;
            assert!(answer.is_err(), "{answer:?}");
        }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for client in clients {
        client.await.unwrap();
    }
    let quiet = wait_until("no abandoned statement runs", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'storm' \
                   AND state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        let active: i64 = sqlx::query_scalar(sql).fetch_one(&mut watcher).await.unwrap();
        active == 0
    })
    .await;
    assert!(quiet < SOON, "{quiet:?}");
    stop.store(true, Ordering::Relaxed);
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.unwrap();
    }
    let new = sessions_begun(lab.primary(), "storm") - begun;
    println!("quiet after {quiet:?}, {reads} reads, {new} sessions begun");
    assert!(reads > READERS, "{reads}");
    // Fifteen of them fill the pool.
    assert!(new <= 50, "{new} sessions begun");

    pid(&lab.db).await;
    wait_until("all rest", async || {
        let pool = lab.pool();
        pool.in_use == 0 && pool.size <= 16 && lab.engine.status().nodes[0].in_flight == 0
    })
    .await;
    lab.engine.close().await;
}
