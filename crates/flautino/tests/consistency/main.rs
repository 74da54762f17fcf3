//! Nobody reads their own past: floors, tokens and levels over real clusters; a file for each
//! behaviour.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asked_positions;
mod cascading;
mod common;
mod failover;
mod levels;
mod odd_tokens;
mod ordinary_role;
mod positions_refused;
mod primary_silent;
mod pure_positions;
mod pure_route;
mod read_only_transactions;
mod read_your_writes;
mod rebuilt;
mod session_level;
mod session_unseen;
mod shared_questions;
mod token_merge;
mod token_probes;
mod unflushed;
mod unseen_writes;
mod until_tokens;
mod ways_to_write;
mod without_positions;
