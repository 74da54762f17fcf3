//! The axum layer, and the example server, on real clusters: a file for each behaviour.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abandoned;
mod abandoned_storm;
mod as_with_sqlx;
mod common;
mod db;
mod db_error;
mod db_error_gone;
mod deadline;
mod first_replica;
mod http2;
mod keep_alive;
#[cfg(feature = "migrate")]
mod migrations;
mod missing_layer;
mod repeated;
mod server_timing;
mod settings;
mod several_engines;
mod shutdown;
mod shutdown_last_requests;
mod shutdown_streams;
mod shutdown_tasks;
mod slow_accept;
mod startup;
mod status_page;
mod status_routes;
mod tenants;
mod tower_service;
mod tx_acknowledged;
mod tx_commit_failure;
mod tx_held;
mod tx_lazy;
mod tx_lost_client;
mod tx_outcome;
mod tx_shared;
mod unused_layer;
