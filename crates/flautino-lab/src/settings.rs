//! Changes to a configuration that several tests need.

use std::time::Duration;

use flautino::EngineConfig;

/// Far longer than any test.
pub const HOUR: Duration = Duration::from_secs(3600);

/// Longer than whoever waits for a connection should have to, also on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Pools of at most this many connections, for which one may wait a minute: a connection that never
/// comes back fails the test, and a busy machine does not.
pub fn connections(config: &mut EngineConfig, max: u32) {
    config.pool.max_connections = max;
    config.pool.acquire_timeout = LONG;
}

/// A connection that rests is not pinged before its next use.
pub fn always_warm(config: &mut EngineConfig) {
    config.pool.warm_time = LONG;
}

/// The monitor probes when the engine opens, and not again, and reads have nobody asked. What it saw then
/// is what it believes, but for what tokens ask: a replica that falls behind stays in the rotation, however old it is.
pub fn frozen(config: &mut EngineConfig) {
    // One answer that comes late would keep a node out of use for the whole test.
    patient_probes(config);
    config.routing.probe_interval = HOUR;
    config.routing.position_rate = 0;
    config.routing.max_lag = HOUR;
    config.routing.token_window = HOUR;
}

/// Servers have five seconds to answer the monitor. On a busy machine, too, the primary then says in
/// time where it is, without which the token of a write is no position.
pub fn patient_probes(config: &mut EngineConfig) {
    config.routing.probe_timeout = Duration::from_secs(5);
}

/// The monitor probes as often as it may.
pub fn lively(config: &mut EngineConfig) {
    config.routing.probe_interval = Duration::from_millis(50);
}

/// All nodes are used as this role, and not as `postgres`.
pub fn log_in_as(config: &mut EngineConfig, role: &str) {
    for node in std::iter::once(&mut config.main).chain(config.extra_nodes.values_mut()) {
        node.url = node.url.take().map(|url| url.replace("postgres@", &format!("{role}@")));
    }
}
