//! What a recorder of the `metrics` facade is told, on real clusters: as Prometheus reads it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connections;
mod nodes;
mod page;
mod statements;
