//! What comes from outside, in any form.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
