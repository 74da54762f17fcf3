//! Tokens over HTTP: what a client wrote, it reads, from whichever instance and node; one behaviour
//! a file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attributes;
mod browser;
mod common;
mod concurrent;
mod cookie;
mod copies;
mod ends;
mod failover;
mod foreign_neighbours;
mod forged;
mod forged_ahead;
mod header;
mod http2;
mod keys;
mod keys_secret;
mod many_tokens;
mod names;
mod no_position;
mod odd_cookies;
mod overloaded;
mod rotation;
mod server_timing;
mod tasks;
mod who_gets_one;
