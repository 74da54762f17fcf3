//! The core on real clusters: a file for each behaviour.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_config;
mod before_open;
mod close_bounded;
mod config_in_force;
mod extensions;
mod lifecycle;
mod round_trips;
