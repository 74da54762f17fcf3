//! What the tests of flautino share: engines over servers of their own ([`Lab`]), waiting for
//! conditions, questions to the servers, captured events.
#![expect(clippy::missing_panics_doc, reason = "a test fails by panicking")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(feature = "axum")]
mod app;
mod bouncer;
mod cancel;
mod capture;
mod cluster;
mod engine;
pub mod imports;
mod lab;
pub mod lexical;
mod offers;
mod program;
mod served;
mod server;
mod session;
pub mod settings;
mod token;
mod wait;

#[cfg(feature = "axum")]
pub use self::app::App;
pub use self::bouncer::Bouncer;
pub use self::cancel::polled_at_most;
pub use self::capture::{Capture, Event};
pub use self::cluster::{catch_up, cluster, pause_replay, resume_replay};
pub use self::engine::{config, engine, open};
pub use self::lab::{Lab, LabBuilder};
pub use self::offers::{has_extensions, is_since};
pub use self::program::program;
pub use self::served::Served;
pub use self::server::{
    ask, end_sessions, has_session, running, sessions_begun, sessions_of, sqlstate, until_running,
    until_sessions,
};
pub use self::session::{node_of, number, pid, reader, run, status_of, tasks, until_served_by};
pub use self::token::{bare, summed};
pub use self::wait::{wait_until, wait_until_or_tell};
