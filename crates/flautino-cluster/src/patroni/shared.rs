//! What all members of a cluster have in common.

use std::path::PathBuf;
use std::time::Duration;

use crate::home::Home;
use crate::program::Runner;

/// Shared by all members; the last one that lives keeps the folder.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) runner: Runner,
    /// The program.
    pub(super) patroni: PathBuf,
    /// The file with the settings of all members.
    pub(super) config: PathBuf,
    /// Host and port of etcd.
    pub(super) etcd: String,
    /// The bound of each single step.
    pub(super) timeout: Duration,
    pub(super) home: Home,
}

impl Shared {
    /// The file for `patronictl`.
    pub(super) fn ctl_config(&self) -> PathBuf {
        self.home.path().join("patronictl.yml")
    }
}
