//! The axum layer, and the example server, on real clusters: a file for each behaviour.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
