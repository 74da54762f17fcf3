//! Where a server listens: the forms in which hosts, addresses and sockets are written.

use std::net::Ipv6Addr;
use std::path::Path;
use std::str::FromStr;

/// How the file of a server's socket is called, before its port.
const SOCKET_FILE: &str = ".s.PGSQL.";

/// A host as it was written, in the form in which sqlx takes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// A name, an address without brackets, or the directory of a socket.
    pub(super) host: String,
    /// The port, if a socket's file told it.
    pub(super) port: Option<u16>,
}

impl Endpoint {
    /// Fails with what is wrong, without the text: it may be a part of a password.
    pub(super) fn parse(host: &str) -> Result<Self, String> {
        if host.contains(',') {
            let fix =
                "names several servers; name one here, and each other one under `extra_nodes`";
            return Err(fix.to_owned());
        }
        if host.starts_with('/') {
            return Self::of_socket(host);
        }
        if let Some(inside) = host.strip_prefix('[') {
            let address = inside.strip_suffix(']').unwrap_or_default();
            return if is_ipv6(address) {
                Ok(Self { host: address.to_owned(), port: None })
            } else {
                Err("has brackets with no IPv6 address in them; expected such as [::1]".to_owned())
            };
        }
        let is_no_name = |c: char| c.is_whitespace() || c.is_control() || "/@?#[]".contains(c);
        if host.is_empty() || host.contains(is_no_name) || (host.contains(':') && !is_ipv6(host)) {
            return Err("is no host name, no address and no path of a socket".to_owned());
        }
        Ok(Self { host: host.to_owned(), port: None })
    }

    fn of_socket(path: &str) -> Result<Self, String> {
        let file = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(port) = file.strip_prefix(SOCKET_FILE) else {
            return Ok(Self { host: path.to_owned(), port: None });
        };
        let directory = path.trim_end_matches('/').strip_suffix(file).unwrap_or("/");
        let directory = if directory == "/" { "/" } else { directory.trim_end_matches('/') };
        Ok(Self { host: directory.to_owned(), port: Some(port_of(port)?) })
    }
}

/// A TCP port, or the number of a socket.
pub(super) fn port_of(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("has a port that is no number from 1 to 65535".to_owned()),
    }
}

/// An address may name the interface behind a `%`.
fn is_ipv6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    Ipv6Addr::from_str(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(host: &str) -> (String, Option<u16>) {
        let endpoint = Endpoint::parse(host).unwrap();
        (endpoint.host, endpoint.port)
    }

    #[test]
    fn each_form_of_a_host_is_understood() {
        for (host, expected, port) in [
            ("db.internal", "db.internal", None),
            ("10.0.0.1", "10.0.0.1", None),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[fe80::1%eth0]", "fe80::1%eth0", None),
            ("/run/postgresql", "/run/postgresql", None),
            ("/run/postgresql/", "/run/postgresql/", None),
            ("/run/postgresql/.s.PGSQL.5433", "/run/postgresql", Some(5433)),
            ("/.s.PGSQL.5433", "/", Some(5433)),
            ("/cloudsql/project:region:instance", "/cloudsql/project:region:instance", None),
        ] {
            assert_eq!(parsed(host), (expected.to_owned(), port), "{host}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let bad = ["", "a b", "a/b", "a,b", "[::1", "[a]", "a:1", "u@h", "/run/.s.PGSQL.x", "h\n"];
        for host in bad {
            assert!(Endpoint::parse(host).is_err(), "{host:?}");
        }
    }
}
