//! The files that TLS needs, wherever they are named.

use std::path::PathBuf;

use super::node::NodeConfig;

impl NodeConfig {
    /// The certificates and the key that a connection reads, by their keys here.
    pub(crate) fn certificates(&self) -> Vec<(&'static str, PathBuf)> {
        [
            ("ssl_root_cert", &self.ssl_root_cert, "PGSSLROOTCERT"),
            ("ssl_client_cert", &self.ssl_client_cert, "PGSSLCERT"),
            ("ssl_client_key", &self.ssl_client_key, "PGSSLKEY"),
        ]
        .into_iter()
        .filter_map(|(key, path, variable)| {
            let set = || std::env::var(variable).ok().filter(|value| is_path(value));
            Some((key, path.clone().or_else(|| set().map(PathBuf::from))?))
        })
        .collect()
    }

    /// Whether certificate authorities are named.
    pub(super) fn has_root_cert(&self) -> bool {
        self.ssl_root_cert.is_some()
            || std::env::var("PGSSLROOTCERT").is_ok_and(|value| !value.is_empty())
    }
}

/// In these variables sqlx takes PEM text as well. A key must not be shown as if it were a path.
fn is_path(value: &str) -> bool {
    !value.is_empty() && !value.trim_start().starts_with("-----BEGIN")
}
