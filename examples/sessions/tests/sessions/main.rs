//! The example on real clusters: its store, its app, and the program.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod app;
mod program;
mod store;
