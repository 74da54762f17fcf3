//! The files that TLS needs, and which of them is to blame for a connection that fails: sqlx's own errors
//! name neither the file nor the key of the configuration.

use std::fs;
use std::path::PathBuf;

use super::refusal::tls_fix;

/// The certificates and the key that a connection reads, by their keys in the configuration. sqlx reads them
/// anew for each connection.
pub(super) struct TlsFiles(Vec<(&'static str, PathBuf)>);

impl TlsFiles {
    pub(super) fn new(files: Vec<(&'static str, PathBuf)>) -> Self {
        Self(files)
    }

    /// What is wrong and what to do about it, if TLS is why the connection failed.
    pub(super) fn blame(&self, error: &sqlx::Error) -> Option<(String, Option<&'static str>)> {
        if let Some(unreadable) = self.unreadable(error) {
            return Some((unreadable, None));
        }
        let fix = tls_fix(error)?;
        if let Some(malformed) = self.malformed() {
            return Some((malformed, None));
        }
        let said = match error {
            sqlx::Error::Io(said) => said.to_string(),
            sqlx::Error::Tls(said) | sqlx::Error::Configuration(said) => said.to_string(),
            other => other.to_string(),
        };
        Some((format!("TLS failed: {said}{}", self.named_in(fix)), Some(fix)))
    }

    /// The file that cannot be read, if the connection failed in the same way.
    fn unreadable(&self, error: &sqlx::Error) -> Option<String> {
        let sqlx::Error::Io(failed) = error else { return None };
        self.0.iter().find_map(|(key, path)| {
            let unreadable = fs::read(path).err()?;
            let is_this = unreadable.kind() == failed.kind();
            is_this.then(|| format!("cannot read `{key}` ({}): {unreadable}", path.display()))
        })
    }

    /// The file that does not hold what its key says.
    fn malformed(&self) -> Option<String> {
        self.0.iter().find_map(|(key, path)| {
            let text = fs::read(path).ok()?;
            let text = String::from_utf8_lossy(&text);
            let path = path.display();
            match *key {
                "ssl_client_key" if text.contains("ENCRYPTED") => Some(format!(
                    "the key in `{key}` ({path}) has a password; name a file without one, as \
                     `openssl pkey` writes it"
                )),
                "ssl_client_key" if !text.contains("PRIVATE KEY-----") => {
                    Some(format!("`{key}` ({path}) is no PEM file with a private key"))
                }
                "ssl_root_cert" | "ssl_client_cert" if !text.contains("CERTIFICATE-----") => {
                    Some(format!("`{key}` ({path}) is no PEM file with a certificate"))
                }
                _ => None,
            }
        })
    }

    /// The paths of the files that the fix speaks of.
    fn named_in(&self, fix: &str) -> String {
        let named = self.0.iter().filter(|(key, _)| fix.contains(key));
        let named: Vec<_> =
            named.map(|(key, path)| format!("`{key}` is {}", path.display())).collect();
        if named.is_empty() { String::new() } else { format!(" ({})", named.join(", ")) }
    }
}
