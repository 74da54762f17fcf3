//! What can go wrong, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// Where the server programs come from.
const INSTALL: &str = "  Debian, Ubuntu:    apt-get install postgresql\n  \
                         Red Hat, Fedora:   dnf install postgresql-server\n  \
                         macOS:             brew install postgresql@17\n  \
                         Windows:           wsl --install, and there as on Debian";

/// Why a cluster, a node or a proxy could not do what it was asked to.
///
/// Each message names the step that failed and, where it helps, ends with the last lines that the
/// server or the program wrote.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// PostgreSQL's server programs are not on this machine, or not where they were looked for.
    #[error(
        "no PostgreSQL server programs (initdb, postgres, pg_ctl) found.\n\
         Looked in:\n{}\
         Install them:\n{INSTALL}\n\
         or name their folder in FLAUTINO_PG_BIN", list(.searched)
    )]
    NoBinaries {
        /// The folders and commands that were tried, in that order.
        searched: Vec<String>,
    },

    /// PostgreSQL's server programs are not on this machine, and could not be fetched.
    #[cfg(feature = "embedded")]
    #[error(
        "PostgreSQL is not on this machine, and could not be fetched from {from}: {why}.\n\
         Install it:\n{INSTALL}\n\
         or name the folder of its server programs in FLAUTINO_PG_BIN, or a mirror in FLAUTINO_PG_MIRROR"
    )]
    Fetch {
        /// The address.
        from: String,
        /// What went wrong there.
        why: String,
    },

    /// Programs that Patroni needs are not on this machine.
    #[cfg(feature = "patroni")]
    #[error(
        "not found in PATH: {}. Install what is missing:\n  \
         Debian, Ubuntu:  apt-get install patroni etcd-server",
        .missing.join(", ")
    )]
    NoPatroni {
        /// Those that were not found.
        missing: Vec<&'static str>,
    },

    /// Patroni's REST interface did not answer, or refused what it was asked for.
    #[cfg(feature = "patroni")]
    #[error("could not {step} by the REST interface of {member}: {why}")]
    Rest {
        /// The member that was asked.
        member: String,
        /// What was being done.
        step: String,
        /// What it said, or why it said nothing.
        why: String,
    },

    /// The folder that was named lacks programs.
    #[error(
        "{} has no {}: name the folder that holds PostgreSQL's server programs \
         (on Debian /usr/lib/postgresql/VERSION/bin), or install them:\n{INSTALL}",
        .dir.display(), .missing.join(", ")
    )]
    IncompleteBinaries {
        /// The folder, as `FLAUTINO_PG_BIN` or [`Builder::bin_dir`](crate::Builder::bin_dir) named it.
        dir: PathBuf,
        /// The programs that are not there.
        missing: Vec<&'static str>,
    },

    /// The only PostgreSQL found is older than 13.
    #[error("PostgreSQL in {} says of its version \"{version}\": 13 or newer is needed", .dir.display())]
    UnsupportedVersion {
        /// Where it is.
        dir: PathBuf,
        /// What `postgres --version` said.
        version: String,
    },

    /// The builder was given something that cannot work.
    #[error("cannot build the cluster: {0}")]
    Invalid(String),

    /// A file, a folder or a socket.
    #[error("could not {step}: {source}")]
    Io {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: io::Error,
    },

    /// One of PostgreSQL's programs failed.
    #[error("{program} for {node} failed ({status}); it said:\n{output}")]
    Program {
        /// `initdb`, `pg_basebackup`…
        program: &'static str,
        /// The node it worked for.
        node: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },

    /// A server ended while it was starting.
    #[error("the server of {node} ended while starting ({status}); its log ends:\n{log}")]
    Exited {
        /// The node.
        node: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },

    /// Something did not happen in time. [`Builder::timeout`](crate::Builder::timeout) sets the bound.
    #[error("{node} did not {step} within {waited:?}; its log ends:\n{log}")]
    Timeout {
        /// The node that was waited for.
        node: String,
        /// What was waited for.
        step: String,
        /// For how long.
        waited: Duration,
        /// The end of the node's log.
        log: String,
    },

    /// A statement, or connecting for it, failed.
    #[error("could not {step} on {node}: {source}")]
    Sql {
        /// The node.
        node: String,
        /// What was being done.
        step: String,
        /// Why it failed.
        source: sqlx::Error,
    },

    /// The node is not in a state in which this can be done.
    #[error("cannot {step} {node}: {fix}")]
    State {
        /// The node.
        node: String,
        /// What was asked for.
        step: &'static str,
        /// What to do first.
        fix: &'static str,
    },

    /// There is no node of this name.
    #[error("there is no node named {name:?}; there are {}", .known.join(", "))]
    UnknownNode {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
}

/// The message: a `main` that returns an error prints it with `Debug`, and so does `unwrap`.
impl fmt::Debug for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Gives an I/O error the name of its step.
pub(crate) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, ClusterError>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, ClusterError> {
        self.map_err(|source| ClusterError::Io { step: step(), source })
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(path: &Path) -> String {
    const LINES: usize = 15;
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let end = &lines[lines.len().saturating_sub(LINES)..];
    if end.is_empty() {
        return "  (empty)".to_owned();
    }
    end.iter().map(|line| format!("  {line}\n")).collect()
}

fn list(entries: &[String]) -> String {
    entries.iter().map(|entry| format!("  {entry}\n")).collect()
}
