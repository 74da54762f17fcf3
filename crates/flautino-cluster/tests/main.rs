//! Against real servers.
#![allow(clippy::unwrap_used, missing_docs)]

mod start;
