//! Deciding allocates nothing: counted, not timed.

use flautino::router::{Load, route};
use flautino::{Engine, EngineConfig};
use flautino_bench::{read, snapshot};

#[test]
fn routing_allocates_nothing_however_many_nodes_there_are() {
    for nodes in [1, 4, 16, 64] {
        let (snapshot, request) = (snapshot(nodes), read());
        let counted = allocation_counter::measure(|| {
            for random in 0..1000_u64 {
                let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let decision = route(&request, &snapshot, |_| Load::new(1, 200), random);
                assert!(nodes == 1 || decision.node != 0);
            }
        });
        assert_eq!(counted.count_total, 0, "{nodes} nodes");
    }
}

#[test]
fn classifying_a_known_statement_allocates_nothing() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new(EngineConfig::from_url("postgres://localhost/none")?)?;
    let sql = "SELECT id, title FROM notes WHERE id = $1";
    let _ = engine.access(sql);
    let counted = allocation_counter::measure(|| {
        for _ in 0..1000 {
            let _ = engine.access(sql);
        }
    });
    assert_eq!(counted.count_total, 0);
    Ok(())
}
