//! The router's pure functions: `route` at 1, 4, 16 and 64 nodes (goal: at most 300 ns at 4), and
//! `classify` with its cache (goal: at most 100 ns) and without.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
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

fn classifies(criterion: &mut Criterion) {
    let config = EngineConfig::from_url("postgres://localhost/none").unwrap_or_default();
    let Ok(engine) = Engine::new(config) else { return };
    let sql = "SELECT id, title, body, created_at FROM notes WHERE owner = $1 ORDER BY id LIMIT $2";
    let mut group = criterion.benchmark_group("classify");
    group.bench_function("cached", |bencher| bencher.iter(|| engine.access(black_box(sql))));
    let mut number = 0_u64;
    group.bench_function("new", |bencher| {
        bencher.iter(|| {
            number += 1;
            engine.access(black_box(&format!("{sql} -- {number}")))
        });
    });
    group.finish();
}

criterion_group!(decisions, routes, classifies);
criterion_main!(decisions);
