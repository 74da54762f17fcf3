//! The router's pure functions: `route` at 1, 4, 16 and 64 nodes (goal: at most 300 ns at 4), and
//! `classify` with its cache (goal: at most 100 ns) and without: of a text of 200 characters (goal: at
//! most 5 µs), and of longer ones, which take as much longer.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flautino::router::{Load, route};
use flautino::{Engine, EngineConfig};
use flautino_bench::{read, snapshot};

fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for nodes in [1, 4, 16, 64] {
        let (snapshot, request) = (snapshot(nodes), read());
        let mut random = 1_u64;
        group.bench_with_input(
            BenchmarkId::from_parameter(nodes),
            &snapshot,
            |bencher, snapshot| {
                bencher.iter(|| {
                    random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    route(black_box(&request), snapshot, |_| Load::new(1, 200), random >> 8)
                });
            },
        );
    }
    group.finish();
}

/// A read of so many bytes: constants, calls, names of columns and numbers.
fn text_of(bytes: usize, number: u64) -> String {
    let mut sql = format!("SELECT {number}, count(*) FROM notes n JOIN owners o USING (owner)");
    sql.push_str(" WHERE length(title) > 10 AND body LIKE 'a%'");
    for condition in
        [" OR coalesce(n.title, 'none') <> $1", " AND \"created\" < now()"].iter().cycle()
    {
        if sql.len() + condition.len() > bytes {
            break;
        }
        sql.push_str(condition);
    }
    sql.push_str(&" ".repeat(bytes - sql.len()));
    sql
}

fn classifies(criterion: &mut Criterion) {
    let config = EngineConfig::from_url("postgres://localhost/none").unwrap_or_default();
    let Ok(engine) = Engine::new(config) else { return };
    let sql = "SELECT id, title, body, created_at FROM notes WHERE owner = $1 ORDER BY id LIMIT $2";
    let mut group = criterion.benchmark_group("classify");
    group.bench_function("cached", |bencher| bencher.iter(|| engine.access(black_box(sql))));
    let mut number = 0_u64;
    for bytes in [200_usize, 2_000, 200_000, 10_000_000] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("new", bytes), |bencher| {
            // Made beforehand, and each is another text: no answer comes from the cache.
            let text = || {
                number += 1;
                text_of(bytes, number)
            };
            bencher.iter_batched(
                text,
                |text| engine.access(black_box(&text)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(decisions, routes, classifies);
criterion_main!(decisions);
