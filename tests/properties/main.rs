//! What comes from outside, in any form: tokens, headers, configuration, SQL. Nothing panics,
//! nothing is answered with a fault of the server, no password shows, and time stays in proportion.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod config;
mod config_urls;
mod headers;
mod statements;
mod statements_growth;
mod tokens;
