//! Nodes that come and go while the engine runs: by `Engine::set_nodes`, and by a name that is
//! resolved again and again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adding;
mod back_to_one;
mod bad_nodes;
mod before_and_after;
mod cancelled;
mod closing;
mod common;
mod concurrent;
mod discovery_changes;
mod discovery_failures;
mod discovery_lifecycle;
mod discovery_settings;
mod draining;
mod first_replica;
mod leaks;
mod load;
mod named_handles;
mod primary_removed;
mod removing;
mod replacing;
mod sessions;
mod tokens;
