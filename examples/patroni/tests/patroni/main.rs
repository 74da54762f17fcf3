//! Nodes by Patroni's REST interface, right and wrong answers, and the example as a whole.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
mod demo;
mod joining_and_leaving;
mod wrong_answers;
