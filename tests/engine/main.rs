//! The core on real clusters: a file for each behaviour.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abandoned;
mod bad_config;
mod before_open;
mod begin;
mod classification;
mod close_bounded;
mod closure_form;
mod closure_form_send;
mod commit;
mod commit_unknown;
mod config_in_force;
mod connections;
mod executors;
mod extensions;
mod from_pool;
mod invariants;
mod levels;
mod lifecycle;
mod lifecycle_cancelled;
mod log_queries;
mod log_responses;
mod log_secrets;
mod migrations;
mod min_connections;
mod nodes;
mod open_failures;
mod outdated;
mod pgbouncer;
mod roles;
mod round_trips;
mod savepoints;
mod server_faults;
mod session_state;
