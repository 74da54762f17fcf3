//! The promises about faults, one a file: each is run on a real cluster under load that never
//! stops, and what became of every single read and write is counted.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod absent_at_start;
mod all_replicas_gone;
mod child;
mod clients_disconnect;
mod common;
mod handler_panics;
mod load;
mod old_primary_rejoins;
mod old_primary_returns;
mod patroni;
mod pool_exhausted;
mod primary_killed;
mod primary_promoted;
mod pulse;
mod replay;
mod replica_flaps;
mod replica_hangs;
mod replica_killed;
mod rolling_restart;
mod server_errors;
mod standby_as_writer;
mod told_to_stop;
