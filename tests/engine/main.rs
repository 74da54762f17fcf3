//! The core on real clusters: a file for each behaviour.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod round_trips;
