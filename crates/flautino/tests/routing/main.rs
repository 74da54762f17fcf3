//! The replica router on real clusters: where statements go, and what becomes of them when nodes
//! fail, lag, hang, or are not what they seem.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod budget;
mod catalogue;
mod common;
mod conflicts;
mod counters;
mod foreign_nodes;
mod fresh_catalogue;
mod hangs;
mod hidden_writes;
mod history;
mod idle;
mod lag;
mod lost_connections;
mod lost_streams;
mod memory;
mod migrations;
mod monitor;
mod monitor_limits;
mod policies;
mod reasons;
mod refused;
mod rescue;
mod rescue_once;
mod retries;
mod settings;
mod several_servers;
mod slow_replica;
mod spread;
mod status_fields;
mod stream_memory;
