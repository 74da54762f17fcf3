//! SeaORM through the router, on real clusters: a primary and a streaming replica, a file for each behaviour.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "SeaORM's macros want the entities to be public")]

mod active_models;
mod common;
mod entities;
mod errors;
mod migrations;
mod misuse;
mod nested;
mod own_writes;
mod pages;
mod relations;
mod request;
mod request_nested;
mod routing;
mod selects;
mod sqlx_beside;
mod streams;
mod transactions;
mod types;
mod upserts;
