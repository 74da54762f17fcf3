//! What the nodes of a cluster have in common.

use std::time::Duration;

use crate::home::Home;
use crate::program::Runner;
use crate::settings::Settings;

/// Shared by all nodes of a cluster; the last one that lives keeps the folder.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) runner: Runner,
    pub(crate) settings: Settings,
    /// The bound of each single step.
    pub(crate) timeout: Duration,
    pub(crate) home: Home,
}
