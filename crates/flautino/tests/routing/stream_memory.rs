//! A stream of large rows holds few of them, however fast they arrive.
//!
//! Measured in a child process of its own, since other tests run side by side in this one.

use flautino_lab::Lab;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Executor, Postgres};

use crate::common::{in_a_process_of_its_own, status_kb};

const NAME: &str = "stream_memory::a_stream_of_large_rows_holds_few_of_them";

/// Rows of 100 kB in four columns, and rows of 1 MB.
const LARGE: [&str; 2] = [
    "SELECT repeat('a', 25000), repeat('b', 25000), NULL, repeat('c', 25000), repeat('d', 25000) \
     FROM generate_series(1, 4000)",
    "SELECT repeat('x', 1000000) FROM generate_series(1, 400)",
];

/// The most that the process grows by while it reads a result, in kB.
async fn growth(rows: BoxStream<'_, Result<PgRow, sqlx::Error>>) -> i64 {
    // Resets the highest value.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status_kb("VmRSS:");
    let count = rows.try_fold(0, async |count, _| Ok(count + 1)).await.unwrap();
    assert!(count >= 400, "{count} rows");
    status_kb("VmHWM:") - before
}

fn rows<'e>(
    db: impl Executor<'e, Database = Postgres> + 'e,
    sql: &str,
) -> BoxStream<'e, Result<PgRow, sqlx::Error>> {
    sqlx::query(AssertSqlSafe(sql.to_owned())).fetch(db)
}

/// The growth through a handle and through a lease, for each result. What was given back to the
/// allocator once is not asked of the system again, so the handle comes first.
async fn measure() -> Vec<[i64; 2]> {
    let lab = Lab::named("large").start().await;
    let mut grown = Vec::new();
    for sql in LARGE {
        let by_handle = growth(rows(&lab.db, sql)).await;
        let mut lease = lab.db.acquire().await.unwrap();
        grown.push([by_handle, growth(rows(&mut lease, sql)).await]);
    }
    lab.engine.close().await;
    grown
}

#[test]
#[cfg(target_os = "linux")]
fn a_stream_of_large_rows_holds_few_of_them() {
    in_a_process_of_its_own(NAME, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let grown = runtime.block_on(measure());
        println!("grown by {grown:?} kB");
        // 128 of the rows would be 13 MB, and 128 MB.
        assert!(grown[0].iter().all(|kb| *kb < 6_000), "rows of 100 kB: {grown:?}");
        assert!(grown[1].iter().all(|kb| *kb < 24_000), "rows of 1 MB: {grown:?}");
    });
}
