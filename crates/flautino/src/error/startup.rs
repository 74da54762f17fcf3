//! Why an engine could not be configured or opened.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::tls::{AndFix, TlsFailure};

/// Gives errors a `Debug` that is their message: a `main` that returns an error prints it with `Debug`, and
/// so do `unwrap` and `expect`.
macro_rules! debug_is_message {
    ($($error:ty),+) => {
        $(impl fmt::Debug for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        })+
    };
}

/// Why a configuration was refused. No I/O but reading the file has happened.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// [`EngineConfig::find`](crate::EngineConfig::find) found nothing.
    #[error(
        "no configuration found; tried {}; write a `flautino.toml` with `host`, `user` and `database`, or \
         set `DATABASE_URL` to the server's URL",
        tried.join(", then ")
    )]
    NotFound {
        /// Each place, with what was found there.
        tried: Vec<String>,
    },

    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The text is no TOML.
    #[error("{origin}, line {line}, column {column}: {message}")]
    Syntax {
        /// Where the text came from.
        origin: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What is wrong. Never the text of the line, which may hold a password.
        message: String,
    },

    /// A key is unknown, or its value is not acceptable.
    #[error("{origin}: `{key}`: {message}")]
    Key {
        /// Where the value came from.
        origin: String,
        /// The key's path, such as `extra_nodes.read_replica_1.port`.
        key: String,
        /// What is wrong, and what is expected.
        message: String,
    },
}

/// Why [`Engine::open`](crate::Engine::open) failed. Nothing stays open then.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The settings given to [`Engine::open_with`](crate::Engine::open_with) are not acceptable.
    #[error(transparent)]
    Config(#[from] ConfigError),

    /// No node answered within `startup_timeout`.
    #[error(
        "no usable server within {waited:.1?}: {}; \
         is it running, and do host and port in the configuration lead to it?",
        failures(nodes)
    )]
    Unreachable {
        /// How long it was tried.
        waited: Duration,
        /// Each node that failed, with its own last error.
        nodes: Vec<NodeFailure>,
    },

    /// No connection can be made, for a reason that waiting does not mend: a wrong password, an unknown
    /// role, a missing database, a certificate that is not trusted or cannot be read.
    #[error(
        "node `{}` cannot be connected to ({}): {}{}",
        .0.node, .0.address, Said(&.0.source), AndFix(.0.fix)
    )]
    Refused(#[source] NodeFailure),
}

/// One node's part in a failed [`Engine::open`](crate::Engine::open).
#[derive(thiserror::Error)]
#[error("node `{node}` ({address}): {}{}", Said(source), AndFix(*fix))]
#[non_exhaustive]
pub struct NodeFailure {
    /// The node's name.
    pub node: String,
    /// `host:port` or the socket's path.
    pub address: String,
    /// What to do about it, and with which key, where the error does not say so itself.
    pub fix: Option<&'static str>,
    /// Its last error.
    pub source: sqlx::Error,
}

/// What the server said, with its code, or else what the driver said: the error without node and fix.
struct Said<'a>(&'a sqlx::Error);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(failure) = TlsFailure::of(self.0) {
            return f.write_str(&failure.what);
        }
        match self.0.as_database_error() {
            Some(error) => {
                write!(f, "{} ({})", error.message(), error.code().unwrap_or_default())
            }
            None => self.0.fmt(f),
        }
    }
}

fn failures(nodes: &[NodeFailure]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

debug_is_message!(ConfigError, OpenError, NodeFailure);
