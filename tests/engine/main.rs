//! The core on real clusters: a file for each behaviour.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_config;
mod before_open;
mod close_bounded;
mod config_in_force;
mod extensions;
mod lifecycle;
mod log_queries;
mod log_responses;
mod nodes;
mod open_failures;
mod round_trips;
