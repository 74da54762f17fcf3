//! The example server as its users run it: a process, its signals, and HTTP.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod browser;
mod child;
mod contract;
mod crash;
mod driver;
mod elsewhere;
mod processes;
mod prometheus;
mod refusals;
mod signals;
mod traces;
