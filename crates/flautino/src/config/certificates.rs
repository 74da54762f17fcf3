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
            Some((key, path.clone().or_else(|| std::env::var_os(variable).map(PathBuf::from))?))
        })
        .collect()
    }
}
