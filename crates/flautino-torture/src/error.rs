//! The error of whatever can go wrong in a run itself, as opposed to in what it checks.

use std::error::Error;

/// Any error, for a message on stderr.
pub type BoxError = Box<dyn Error + Send + Sync>;
