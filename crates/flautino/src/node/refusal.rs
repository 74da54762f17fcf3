//! Why a connection cannot be made: whether trying again may help, and which key to mend.

use std::io::ErrorKind;

use crate::error::TlsFailure;
use crate::sqlstate::{
    AUTHORIZATION_CLASS, INSUFFICIENT_PRIVILEGE, INVALID_CATALOG_NAME, INVALID_PASSWORD,
    PROTOCOL_VIOLATION, refuses_role_or_database, sqlstate,
};

/// How PgBouncer's messages begin where another client may get a server a moment later.
const POOLER_IS_BUSY: [&str; 3] =
    ["query_wait_timeout", "no more connections allowed", "server login has been failing"];

/// Whether the next attempt would fail as well: the server refuses the user, the password, the database
/// or a start-up parameter, TLS fails, or the configuration demands what this build cannot do.
pub(crate) fn is_final(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(answer) => sqlstate(error).is_some_and(|code| {
            let is_busy = POOLER_IS_BUSY.iter().any(|text| answer.message().starts_with(text));
            refuses_role_or_database(&code) || (code == PROTOCOL_VIOLATION && !is_busy)
        }),
        sqlx::Error::Configuration(_) => true,
        _ => is_about_tls(error),
    }
}

/// What to do about an error of connecting, where the error does not say it itself.
pub(crate) fn fix(error: &sqlx::Error) -> Option<&'static str> {
    let text = || error.to_string().to_lowercase();
    match error {
        sqlx::Error::Database(_) => refusal_fix(&sqlstate(error)?, &text()),
        sqlx::Error::Io(io) if io.kind() == ErrorKind::NotADirectory => {
            Some("`host` is the directory of the socket, or its file, `…/.s.PGSQL.PORT`")
        }
        error => TlsFailure::of(error).map_or_else(|| tls_fix(error), |failure| failure.fix),
    }
}

/// What to do about an error of TLS. `None` for any other error.
pub(super) fn tls_fix(error: &sqlx::Error) -> Option<&'static str> {
    let text = error.to_string().to_lowercase();
    match error {
        sqlx::Error::Configuration(_) => first_of(CLIENT_KEY_FIXES, &text),
        _ if is_about_tls(error) => Some(first_of(TLS_FIXES, &text).unwrap_or(
            "look at `ssl_mode`, `ssl_root_cert`, `ssl_client_cert` and `ssl_client_key`",
        )),
        _ => None,
    }
}

/// rustls reports a failed handshake as invalid data, as no other step of connecting does. With TLS 1.3 the
/// server may refuse the client's certificate after the handshake: for OpenSSL that is an error of reading.
fn is_about_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(said) => {
            // So native-tls says that the server went away in the middle of the handshake.
            let is_gone = |text: &str| text.contains("unexpected eof") || text.contains("os error");
            TlsFailure::of(error).is_some() || !is_gone(&said.to_string())
        }
        sqlx::Error::Io(io) => {
            let is_alert = |text: &str| text.contains("SSL routines") && text.contains("alert");
            io.kind() == ErrorKind::InvalidData || is_alert(&io.to_string())
        }
        _ => false,
    }
}

/// The server's own refusal.
fn refusal_fix(code: &str, text: &str) -> Option<&'static str> {
    if code == INVALID_PASSWORD {
        Some("look at `user` and `password` (else `PGPASSWORD` and the password file)")
    } else if code == INVALID_CATALOG_NAME {
        Some("create the database, or look at `database`")
    } else if code == INSUFFICIENT_PRIVILEGE {
        Some("grant it (`GRANT CONNECT ON DATABASE … TO …`), or look at `user` and `database`")
    } else if code == PROTOCOL_VIOLATION && text.contains("unsupported startup parameter") {
        Some("a PgBouncer, it seems: set `pgbouncer = true` at this node")
    } else if code.starts_with(AUTHORIZATION_CLASS) {
        let fix = first_of(AUTHORIZATION_FIXES, text);
        Some(fix.unwrap_or("look at `user`, and at the server's pg_hba.conf"))
    } else {
        None
    }
}

/// Texts, each with the fix for an error in which it stands. The first one counts.
type Fixes = &'static [(&'static [&'static str], &'static str)];

fn first_of(fixes: Fixes, text: &str) -> Option<&'static str> {
    let stands = |(texts, _): &&(&[&str], &'static str)| texts.iter().any(|one| text.contains(one));
    fixes.iter().find(stands).map(|(_, fix)| *fix)
}

/// Of PostgreSQL, where its messages are English.
const AUTHORIZATION_FIXES: Fixes = &[
    (
        // `trust` fails only where the certificate is not the user's.
        &["client certificate", "certificate authentication", "\"trust\" authentication failed"],
        "give the certificate of `user` with `ssl_client_cert` and `ssl_client_key`",
    ),
    (
        &["no encryption", "ssl off"],
        "the server takes this user over TLS only: `ssl_mode = \"require\"`, in a build with one of \
         flautino's `tls-…` features; or look at its pg_hba.conf",
    ),
    (
        &["ssl encryption", "ssl on"],
        "the server takes this user without TLS only: `ssl_mode = \"disable\"`; or look at its \
         pg_hba.conf",
    ),
];

const CLIENT_KEY_FIXES: Fixes = &[
    (&["given together"], "give both `ssl_client_cert` and `ssl_client_key`"),
    (&["keys found pem", "pem"], "`ssl_client_key` is no PEM file with a private key"),
];

/// Of sqlx, rustls and OpenSSL.
const TLS_FIXES: Fixes = &[
    (
        &["without tls support"],
        "build flautino with one of its `tls-…` features, such as `tls-rustls-ring`, or take \
         `ssl_mode = \"disable\"`",
    ),
    (
        &["does not support tls"],
        "turn `ssl` on at the server; or take `ssl_mode = \"prefer\"`, which goes on without TLS, where \
         nobody can listen",
    ),
    (
        &["causedasendentity"],
        "the server shows an authority's own certificate, which rustls does not take for a server's: \
         give the server one that the authority has signed",
    ),
    (
        &["unknownissuer", "self-signed", "self signed", "local issuer", "unable to get issuer"],
        "the server's certificate is signed by no authority that is trusted here: name the PEM file of \
         its authority in `ssl_root_cert`",
    ),
    (
        &["not valid for name", "notvalidforname", "hostname mismatch", "address mismatch"],
        "`host` is no name in the server's certificate: connect by one that is (nodes of `discovery` are \
         connected to by their addresses), or take `ssl_mode = \"verify-ca\"`, which does not compare names",
    ),
    (&["expired"], "renew the server's certificate"),
    (&["not valid yet", "notvalidyet"], "look at the clocks of this machine and the server"),
    (
        &["inconsistentkeys", "keymismatch", "keys may not be consistent", "key values mismatch"],
        "`ssl_client_key` is not the key of the certificate in `ssl_client_cert`",
    ),
    (
        &["invalid certificate file", "trust anchor", "no start line"],
        "`ssl_root_cert` is no PEM file with a certificate",
    ),
    (
        &["alert"],
        "the server refuses what the client shows: look at `ssl_client_cert` and `ssl_client_key`, and \
         at the server's log",
    ),
    (&["invalid dns name"], "`host` is no name that a certificate can have"),
];

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn tls(text: &str) -> sqlx::Error {
        sqlx::Error::Tls(text.into())
    }

    /// As rustls reports a failed handshake.
    fn handshake(text: &str) -> sqlx::Error {
        sqlx::Error::Io(io::Error::new(ErrorKind::InvalidData, text))
    }

    #[test]
    fn a_failed_handshake_is_final_and_its_fix_names_the_key() {
        for (error, key) in [
            (tls("server does not support TLS"), "ssl_mode"),
            (
                tls(
                    "TLS upgrade required by connect options but SQLx was built without TLS support enabled",
                ),
                "tls-",
            ),
            (handshake("invalid peer certificate: UnknownIssuer"), "ssl_root_cert"),
            (
                tls(
                    "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed: (self-signed certificate)",
                ),
                "ssl_root_cert",
            ),
            (
                handshake(
                    "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for DnsName(\"b\")",
                ),
                "`host`",
            ),
            (tls("certificate verify failed: (Hostname mismatch)"), "`host`"),
            (handshake("invalid peer certificate: Expired"), "renew"),
            (handshake("received fatal alert: UnknownCA"), "ssl_client_cert"),
            (tls("Invalid certificate file: /etc/ca.pem"), "ssl_root_cert"),
            (handshake("something new"), "ssl_root_cert"),
            (
                sqlx::Error::Io(io::Error::other(
                    "error:0A000418:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca",
                )),
                "ssl_client_cert",
            ),
        ] {
            assert!(is_final(&error), "{error}");
            assert!(fix(&error).is_some_and(|fix| fix.contains(key)), "{error}: {:?}", fix(&error));
        }
        let config =
            sqlx::Error::Configuration("user auth key and certs must be given together".into());
        assert!(
            is_final(&config) && fix(&config).is_some_and(|fix| fix.contains("ssl_client_key"))
        );
    }

    #[test]
    fn a_server_that_is_not_there_yet_is_waited_for() {
        for kind in [
            ErrorKind::ConnectionRefused,
            ErrorKind::ConnectionReset,
            ErrorKind::UnexpectedEof,
            ErrorKind::NotFound,
            ErrorKind::TimedOut,
            ErrorKind::HostUnreachable,
        ] {
            let error = sqlx::Error::Io(kind.into());
            assert!(!is_final(&error) && fix(&error).is_none(), "{error}");
        }
        for text in [
            "error:0A000126:SSL routines:ssl3_read_n:unexpected eof while reading",
            "Connection reset by peer (os error 104)",
        ] {
            assert!(!is_final(&tls(text)) && fix(&tls(text)).is_none(), "{text}");
        }
        assert!(!is_final(&sqlx::Error::Protocol("unexpected response from SSLRequest".into())));
    }
}
