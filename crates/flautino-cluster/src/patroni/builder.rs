//! The options of a cluster that Patroni runs, and its start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::try_join_all;

use super::cluster::Patroni;
use super::etcd::Etcd;
use super::member::Member;
use super::rest::Rest;
use super::shared::Shared;
use crate::builder::find_programs;
use crate::error::ClusterError;
use crate::home::Home;
use crate::program::{Runner, Unprivileged};
use crate::sweep::sweep;
use crate::wait::blocking;

/// The options of a [`Patroni`], made by [`Patroni::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing runs before start()"]
pub struct Builder {
    members: usize,
    config: String,
    temp_dir: Option<PathBuf>,
    timeout: Duration,
}

impl Patroni {
    /// A builder with the defaults: three members.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            members: 3,
            config: include_str!("patroni.yml").to_owned(),
            temp_dir: None,
            timeout: Duration::from_secs(120),
        }
    }
}

impl Builder {
    /// How many members there are (3).
    pub fn members(mut self, count: usize) -> Self {
        self.members = count;
        self
    }

    /// What all members have in common, as a `patroni.yml`: each one's name, addresses, folders and etcd are given to
    /// it in its environment, which counts more. It must let the superuser `postgres` in from this machine without a
    /// password. By default, settings for tests: `ttl` 20 s, `loop_wait` 1 s, asynchronous replication.
    pub fn config(mut self, yaml: impl Into<String>) -> Self {
        self.config = yaml.into();
        self
    }

    /// As [`crate::Builder::temp_dir`].
    pub fn temp_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.temp_dir = Some(dir.into());
        self
    }

    /// How long each single step may take, such as the start of a member or an election (120 s).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts all members, the first as the leader, and waits until the others stream from it. Clusters that a
    /// killed process left behind are removed first.
    ///
    /// # Errors
    ///
    /// When Patroni, etcd or PostgreSQL is not found, or a member does not come up in time; with the end of its log.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, what was started is ended and removed.
    pub async fn start(self) -> Result<Patroni, ClusterError> {
        let Self { members, config, temp_dir, timeout } = self;
        if members == 0 {
            let why = "a cluster without a member has no leader; leave members() out for three";
            return Err(ClusterError::Invalid(why.to_owned()));
        }
        let (patroni, etcd) = programs()?;
        let binaries = find_programs(None).await?;
        let prepare = move || -> Result<(Runner, Home), ClusterError> {
            let user = Unprivileged::needed()?;
            let parent = temp_dir.unwrap_or_else(std::env::temp_dir);
            sweep(&parent);
            let home = Home::create(&parent)?;
            if let Some(user) = &user {
                user.check_reach(home.path())?;
            }
            Ok((Runner { binaries, user }, home))
        };
        let (runner, home) = blocking(prepare).await?;
        let etcd = Etcd::start(&etcd, &runner, &home, timeout).await?;
        let rest = Rest::new()?;
        let (path, address) = (home.path().join("patroni.yml"), etcd.address());
        let shared = Shared { runner, patroni, config: path, etcd: address, timeout, home };
        shared.runner.write(&shared.config, &config)?;
        let ctl = format!("scope: flautino\netcd3:\n  host: {}\n", shared.etcd);
        shared.runner.write(&shared.ctl_config(), &ctl)?;
        let patroni = Patroni::new(members, rest, etcd, shared)?;
        // The first one alone, so that it is the one that leads.
        patroni.members()[0].start().await?;
        patroni.leader().await?;
        try_join_all(patroni.members()[1..].iter().map(Member::start)).await?;
        patroni.until_streaming().await?;
        Ok(patroni)
    }
}

/// Where Patroni and etcd are.
fn programs() -> Result<(PathBuf, PathBuf), ClusterError> {
    match (find("patroni"), find("etcd")) {
        (Some(patroni), Some(etcd)) => Ok((patroni, etcd)),
        (patroni, etcd) => {
            let found = [("patroni", patroni), ("etcd", etcd)];
            let missing = found.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name);
            Err(ClusterError::NoPatroni { missing: missing.collect() })
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    folders.map(|dir| dir.join(program)).find(|path: &PathBuf| Path::is_file(path))
}
