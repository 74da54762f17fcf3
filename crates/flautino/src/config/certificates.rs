//! The files that TLS needs, wherever they are named.

use std::path::PathBuf;

use super::check::Place;
use super::libpq_environment;
use super::node::NodeConfig;
use crate::error::ConfigError;

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
            let set = || libpq_environment::variable(variable).filter(|value| is_path(value));
            Some((key, path.clone().or_else(|| set().map(PathBuf::from))?))
        })
        .collect()
    }

    /// Whether certificate authorities are named.
    pub(super) fn has_root_cert(&self) -> bool {
        self.ssl_root_cert.is_some() || is_set("PGSSLROOTCERT")
    }

    /// Refuses a client's certificate without its key, and a key without its certificate: one of sqlx's back
    /// ends would show none then, without a word.
    pub(super) fn check_client_cert(&self, place: Place<'_>) -> Result<(), ConfigError> {
        let certificate = self.ssl_client_cert.is_some() || is_set("PGSSLCERT");
        let key = self.ssl_client_key.is_some() || is_set("PGSSLKEY");
        match (certificate, key) {
            (true, false) => {
                Err(place.error("ssl_client_cert", "has no key; name its file in `ssl_client_key`"))
            }
            (false, true) => Err(place
                .error("ssl_client_key", "has no certificate; name its file in `ssl_client_cert`")),
            _ => Ok(()),
        }
    }
}

fn is_set(variable: &str) -> bool {
    libpq_environment::variable(variable).is_some()
}

/// In these variables sqlx takes PEM text as well. A key must not be shown as if it were a path.
fn is_path(value: &str) -> bool {
    !value.trim_start().starts_with("-----BEGIN")
}
