//! The keys of libpq: those that mean something here, under the names that they have here, and what to do
//! instead of the others.

/// What a key of libpq is here.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meaning {
    /// The same as this key.
    Key(&'static str),
    /// Nothing can be chosen.
    Fixed(Fixed),
}

/// A key of libpq with which nothing can be chosen here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed {
    /// The values that say what is so anyway.
    values: &'static [&'static str],
    /// What to do instead of another value.
    instead: &'static str,
}

impl Fixed {
    /// Fails with the fix if the value asks for what cannot be had. The value is not shown.
    pub(super) fn check(self, value: &str) -> Result<(), String> {
        if self.values.iter().any(|one| one.eq_ignore_ascii_case(value)) {
            return Ok(());
        }
        Err(format!("cannot be chosen here: {}", self.instead))
    }
}

pub(super) fn meaning(key: &str) -> Option<Meaning> {
    KEYS.iter().find(|(known, _)| *known == key).map(|(_, meaning)| *meaning)
}

const fn fixed(values: &'static [&'static str], instead: &'static str) -> Meaning {
    Meaning::Fixed(Fixed { values, instead })
}

const NODES: &str = "flautino asks each server what it is; name each as a node of its own (`extra_nodes`), \
                     and choose with `db.primary()` and `db.replica()`";
const GSS: &str = "GSSAPI is not spoken here; leave it out";
const KEEPALIVE: &str = "let the server look after its connections, as it does with \
                         `options = { tcp_keepalives_idle = \"60\" }`; one that rested is checked before \
                         it is used (`pool.ping_timeout`)";
const REVOKED: &str = "lists of revoked certificates are not read here; leave it out";
const VERSIONS: &str =
    "the server and this build agree on it; leave it out, or set it at the server";
const PASSWORD: &str = "log in with `password`";
const SERVICE: &str = "write `host`, `port`, `user` and `database` of the service here";

/// Of libpq 18.
const KEYS: &[(&str, Meaning)] = &[
    ("dbname", Meaning::Key("database")),
    ("hostaddr", Meaning::Key("host")),
    ("sslmode", Meaning::Key("ssl_mode")),
    ("sslrootcert", Meaning::Key("ssl_root_cert")),
    ("sslcert", Meaning::Key("ssl_client_cert")),
    ("sslkey", Meaning::Key("ssl_client_key")),
    ("fallback_application_name", Meaning::Key("application_name")),
    ("target_session_attrs", fixed(&["any"], NODES)),
    ("load_balance_hosts", fixed(&["disable"], NODES)),
    (
        "channel_binding",
        fixed(
            &["disable", "prefer"],
            "channels are not bound here; leave it out, and take `ssl_mode = \"verify-full\"` to be sure \
             of the server",
        ),
    ),
    ("gssencmode", fixed(&["disable", "prefer"], GSS)),
    ("krbsrvname", fixed(&[], GSS)),
    ("gsslib", fixed(&[], GSS)),
    ("gssdelegation", fixed(&["0"], GSS)),
    ("keepalives", fixed(&["0"], KEEPALIVE)),
    ("keepalives_idle", fixed(&["0"], KEEPALIVE)),
    ("keepalives_interval", fixed(&["0"], KEEPALIVE)),
    ("keepalives_count", fixed(&["0"], KEEPALIVE)),
    (
        "tcp_user_timeout",
        fixed(
            &["0"],
            "say how long a statement may take with `statement_timeout`, and a connection with \
             `connect_timeout` and `pool.acquire_timeout`",
        ),
    ),
    ("client_encoding", fixed(&["utf8", "utf-8", "unicode"], "text is UTF-8 here; leave it out")),
    ("passfile", fixed(&[], "name the password file in `PGPASSFILE`, or give `password`")),
    ("service", fixed(&[], SERVICE)),
    ("servicefile", fixed(&[], SERVICE)),
    ("requirepeer", fixed(&[], "the server's user is not checked here; leave it out")),
    ("require_auth", fixed(&[], "say in the server's pg_hba.conf how to log in; leave it out")),
    ("sslcompression", fixed(&["0"], "TLS is not compressed here; leave it out")),
    ("sslcertmode", fixed(&["allow"], "a certificate is shown where `ssl_client_cert` names one")),
    ("sslpassword", fixed(&[], "`ssl_client_key` names a file without a password; decrypt it")),
    ("sslcrl", fixed(&[], REVOKED)),
    ("sslcrldir", fixed(&[], REVOKED)),
    ("sslsni", fixed(&["1"], "the server is told the host's name; leave it out")),
    ("sslnegotiation", fixed(&["postgres"], "TLS begins with PostgreSQL's request; leave it out")),
    ("sslkeylogfile", fixed(&[], "keys of TLS are not logged here; leave it out")),
    ("ssl_min_protocol_version", fixed(&[], VERSIONS)),
    ("ssl_max_protocol_version", fixed(&[], VERSIONS)),
    ("min_protocol_version", fixed(&["3.0"], VERSIONS)),
    ("max_protocol_version", fixed(&["3.0"], VERSIONS)),
    ("replication", fixed(&["false", "off", "no", "0"], "statements cannot run so; leave it out")),
    ("scram_client_key", fixed(&[], PASSWORD)),
    ("scram_server_key", fixed(&[], PASSWORD)),
    ("oauth_issuer", fixed(&[], PASSWORD)),
    ("oauth_client_id", fixed(&[], PASSWORD)),
    ("oauth_client_secret", fixed(&[], PASSWORD)),
    ("oauth_scope", fixed(&[], PASSWORD)),
];
