//! The error of a run, or of a child's part of it.

use std::error::Error;

/// Any error, for a message on stderr.
pub(crate) type BoxError = Box<dyn Error + Send + Sync>;
