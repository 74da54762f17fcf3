//! The settings of one node, and what sqlx makes of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use super::check::{Place, SSL_MODES, keyed};
use super::de::{Port, SecretString, Time};
use super::endpoint::Endpoint;
use super::libpq_environment;
use super::settings::settings;
use super::url::UrlSettings;
use crate::error::ConfigError;

settings! {
    /// How to reach one PostgreSQL server, and how to treat its sessions.
    ///
    /// What is left out follows `PGHOST`, `PGPORT`, `PGUSER`, `PGDATABASE`, `PGPASSWORD` and
    /// `.pgpass`, as libpq does; a variable of libpq that demands what cannot be had here, such as
    /// `PGCHANNELBINDING=require`, is an error. Either `url` or the single keys say where the server is. In TOML
    /// libpq's own names are taken too, such as `sslmode` or `dbname`; those of its keys with which
    /// nothing can be chosen here are refused with what to do instead.
    #[derive(Clone, PartialEq)]
    pub struct NodeConfig {
        /// `postgres://user:password@host:port/database?parameter=value`. Not together with `host`,
        /// `port`, `user` or `database`. An IPv6 address stands in brackets (`[::1]`); a socket's
        /// directory is percent-encoded (`%2Frun%2Fpostgresql`) or the parameter `host`. The
        /// parameters are libpq's; what stands beside `url` wins over them.
        pub url: Option<String> as SecretString,
        /// Host name, address, or the directory of a Unix socket (beginning with `/`) or its file.
        /// Default: `PGHOST`, else the local socket's directory, else `localhost`.
        pub host: Option<String>,
        /// TCP port. Default: `PGPORT`, else 5432.
        pub port: Option<u16> as Port,
        /// The role to connect as. Default: `PGUSER`, else the operating system's user.
        pub user: Option<String>,
        /// Default: `PGPASSWORD`, else what the password file says for this server.
        pub password: Option<String> as SecretString,
        /// Default: `PGDATABASE`, else the server's choice, which is the user's name.
        pub database: Option<String>,
        /// Whether connections are encrypted, and what is checked of the server's certificate. Default:
        /// `PGSSLMODE`, else `prefer`.
        ///
        /// | mode | encrypted | protects from | needs |
        /// |---|---|---|---|
        /// | `disable`, `allow` | never: sqlx does not try again with TLS where a server wants it | nothing | |
        /// | `prefer` | if this build and the server speak TLS | who only listens; who can change the traffic turns it off unseen | |
        /// | `require` | always, or it fails | who only listens | a `tls-…` feature of this crate, `ssl = on` at the server |
        /// | `verify-ca`, and `require` with `ssl_root_cert` | always, or it fails | who has no certificate of a trusted authority, for whatever name | the same, and `ssl_root_cert` |
        /// | `verify-full` | always, or it fails | also who has one for another name than `host` | the same, and `host` in the server's certificate |
        ///
        /// Over a Unix socket nothing is encrypted, whatever the mode is, as in libpq.
        pub ssl_mode: Option<String>,
        /// PEM file with certificate authorities to trust, beside those of the build, which cannot be left
        /// out: `verify-ca` also takes what a public authority has given to anyone, for any name. With the
        /// feature `tls-native-tls` only the first one counts. Default: `PGSSLROOTCERT`.
        ///
        /// This file, the client's certificate and its key are read anew for each new connection.
        pub ssl_root_cert: Option<PathBuf>,
        /// PEM file with the client's certificate, and those between it and its authority behind it.
        /// Default: `PGSSLCERT`.
        pub ssl_client_cert: Option<PathBuf>,
        /// PEM file with the client's key, without a password. Who may read it is not checked. With the
        /// feature `tls-native-tls` it must be in PKCS#8 (`BEGIN PRIVATE KEY`). Default: `PGSSLKEY`.
        pub ssl_client_key: Option<PathBuf>,
        /// Prepared statements kept on each connection; 0 for none. Default: 100, as in sqlx.
        pub statement_cache_capacity: Option<usize>,
        /// Shown in `pg_stat_activity`. Default: `PGAPPNAME`.
        pub application_name: Option<String>,
        /// Digits beyond the default in floating-point text. Default: 2, as in sqlx.
        pub extra_float_digits: Option<i8>,
        /// Server settings for each session, sent as start-up options: `{ search_path = "app" }`.
        pub options: BTreeMap<String, String>,
        /// The level at which sqlx logs each statement: `off`, `error`, `warn`, `info`, `debug` or
        /// `trace`. Default: `debug`, as in sqlx.
        pub log_statements: Option<String>,
        /// The level at which sqlx logs slow statements. Default: `warn`, as in sqlx.
        pub log_slow_statements: Option<String>,
        /// From which time on a statement is slow. Default: 1 s, as in sqlx.
        pub log_slow_threshold: Option<Duration> as Time,
        /// The server ends a statement that runs longer: 1 ms to 24 days. Default: none.
        pub statement_timeout: Option<Duration> as Time,
        /// How often the server looks whether the client of a running statement is still there
        /// (`client_connection_check_interval`, PostgreSQL 14 and newer); 0 for never.
        /// Default: 1 s.
        pub client_check_interval: Option<Duration> as Time,
        /// How long one attempt to connect may take at `open`. Default: 5 s.
        pub connect_timeout: Option<Duration> as Time,
        /// The node is PgBouncer in transaction mode: nothing is prepared, no session setting is
        /// made, and each statement with values goes in a transaction of its own, so that its
        /// protocol steps reach one server, at three more round trips. Default: `false`.
        ///
        /// What would stay in a session that PgBouncer gives to other clients, such as `SET`, is
        /// refused with [`Error::SharedSession`](crate::Error::SharedSession); what a function, a
        /// trigger, a hook or the bare connection of a lease leaves there is not seen.
        /// `statement_timeout`, `client_check_interval`, `statement_cache_capacity` and
        /// `extra_float_digits` would have no effect, and are errors beside it. `options` need
        /// PgBouncer's consent, and `application_name` has an effect: PgBouncer passes it on.
        ///
        /// Do not leave it out: to end an abandoned statement flautino has the server process that ran it
        /// cancel it, and behind a pooler that process may serve somebody else by then.
        pub pgbouncer: bool,
    }
}

impl NodeConfig {
    /// Whether sqlx keeps statements prepared; with a capacity of 0 it would leak them.
    pub(crate) fn keeps_prepared(&self) -> bool {
        self.statement_cache_capacity != Some(0)
    }

    /// The settings with those of the URL among them. What stands in the URL and beside it counts as it
    /// stands beside it. A URL that is not acceptable says nothing.
    pub(crate) fn with_url(&self) -> Self {
        let url = self.url.as_deref().and_then(|url| UrlSettings::parse(url).ok());
        url.map_or_else(|| self.clone(), |url| self.merged(url).0)
    }

    /// The settings with those of the URL among them, and its start-up options.
    fn merged(&self, url: UrlSettings) -> (Self, Vec<(String, String)>) {
        let node = self.clone();
        let merged = Self {
            url: None,
            host: node.host.or(url.host),
            port: node.port.or(url.port),
            user: node.user.or(url.user),
            password: node.password.or(url.password),
            database: node.database.or(url.database),
            ssl_mode: node.ssl_mode.or(url.ssl_mode),
            ssl_root_cert: node.ssl_root_cert.or(url.ssl_root_cert),
            ssl_client_cert: node.ssl_client_cert.or(url.ssl_client_cert),
            ssl_client_key: node.ssl_client_key.or(url.ssl_client_key),
            statement_cache_capacity: node
                .statement_cache_capacity
                .or(url.statement_cache_capacity),
            application_name: node.application_name.or(url.application_name),
            connect_timeout: node.connect_timeout.or(url.connect_timeout),
            ..node
        };
        (merged, url.options)
    }

    /// What sqlx connects with. `prefix` is the path of this node's keys in the configuration.
    pub(crate) fn connect_options(
        &self,
        origin: &str,
        prefix: &str,
    ) -> Result<PgConnectOptions, ConfigError> {
        let place = Place { origin, prefix };
        let (node, url_options) = self.resolved(place)?;
        // Exhaustive, so that a new setting cannot be forgotten here.
        let Self {
            url: _,
            // These are read by `address`.
            host: _,
            port: _,
            user: _,
            password: _,
            database: _,
            ssl_mode,
            ssl_root_cert,
            ssl_client_cert,
            ssl_client_key,
            statement_cache_capacity,
            application_name,
            extra_float_digits,
            options: server_options,
            log_statements,
            log_slow_statements,
            log_slow_threshold,
            // These are checked by `check_times`, and used where connections are made.
            statement_timeout: _,
            client_check_interval: _,
            connect_timeout: _,
            pgbouncer,
        } = &node;
        node.check_times(place)?;
        libpq_environment::check(ssl_mode.is_some())?;
        if *pgbouncer {
            self.check_pooled(place)?;
        }
        let mut options = PgConnectOptions::from_str(node.address(place, &url_options)?.as_str())
            .map_err(|err| place.error("url", source_text(err)))?;

        if let Some(mode) = ssl_mode {
            let mode = PgSslMode::from_str(mode).map_err(|_| {
                place.error("ssl_mode", format!("is \"{mode}\"; expected {SSL_MODES}"))
            })?;
            options = options.ssl_mode(mode);
        }
        if options.get_socket().is_some() || options.get_host().starts_with('/') {
            // As in libpq. A server speaks no TLS over a socket.
            options = options.ssl_mode(PgSslMode::Disable);
        }
        if let Some(path) = ssl_root_cert {
            if path.as_os_str() == "system" {
                let fix = "is \"system\"; leave it out, and take `ssl_mode = \"verify-full\"` in a \
                           build with the feature `tls-rustls-ring-native-roots` or `tls-native-tls`";
                return Err(place.error("ssl_root_cert", fix));
            }
            options = options.ssl_root_cert(path);
        }
        if matches!(options.get_ssl_mode(), PgSslMode::Require) && node.has_root_cert() {
            // As in libpq. sqlx would not look at the authorities.
            options = options.ssl_mode(PgSslMode::VerifyCa);
        }
        if !matches!(options.get_ssl_mode(), PgSslMode::Disable | PgSslMode::Allow) {
            node.check_client_cert(place)?;
        }
        if let Some(path) = ssl_client_cert {
            options = options.ssl_client_cert(path);
        }
        if let Some(path) = ssl_client_key {
            options = options.ssl_client_key(path);
        }
        if let Some(capacity) = statement_cache_capacity {
            options = options.statement_cache_capacity(*capacity);
        }
        if let Some(name) = application_name {
            options = options.application_name(name);
        }
        if let Some(digits) = extra_float_digits {
            options = options.extra_float_digits(*digits);
        }
        if !server_options.is_empty() {
            // PgBouncer refuses a connection with this parameter, even if it is empty.
            options = options.options(server_options);
        }
        let level = |key: &str, text: &str| {
            LevelFilter::from_str(text).map_err(|_| {
                let levels = "off, error, warn, info, debug or trace";
                place.error(key, format!("is \"{text}\"; expected {levels}"))
            })
        };
        if let Some(text) = log_statements {
            options = options.log_statements(level("log_statements", text)?);
        }
        if log_slow_statements.is_some() || log_slow_threshold.is_some() {
            let text = log_slow_statements.as_deref().unwrap_or("warn");
            let threshold = log_slow_threshold.unwrap_or(Duration::from_secs(1));
            options = options.log_slow_statements(level("log_slow_statements", text)?, threshold);
        }
        if *pgbouncer {
            // PgBouncer refuses a connection with a start-up parameter that it does not know.
            options = options.statement_cache_capacity(0).extra_float_digits(None);
        }
        Ok(options)
    }

    /// Refuses settings of a session that would have no effect behind PgBouncer.
    fn check_pooled(&self, place: Place<'_>) -> Result<(), ConfigError> {
        let role = "set it for the role on the server instead";
        let statement_timeout = self.statement_timeout.is_some_and(|time| !time.is_zero());
        let client_check_interval = self.client_check_interval.is_some_and(|time| !time.is_zero());
        let cache = self.statement_cache_capacity.is_some_and(|capacity| capacity > 0);
        let in_url = self.with_url().statement_cache_capacity;
        let cache_in_url = in_url.is_some_and(|capacity| capacity > 0);
        let nothing_kept = "no statement is kept prepared; leave it out, or set it to 0";
        let refused = [
            (
                statement_timeout,
                "statement_timeout",
                format!("{role}: `ALTER ROLE … SET statement_timeout = '…'`"),
            ),
            (
                client_check_interval,
                "client_check_interval",
                "the server's client is PgBouncer; leave it out, or set it to 0".to_owned(),
            ),
            (cache, "statement_cache_capacity", nothing_kept.to_owned()),
            (cache_in_url, "url", format!("`statement-cache-capacity`: {nothing_kept}")),
            (
                self.extra_float_digits.is_some(),
                "extra_float_digits",
                format!("{role}: `ALTER ROLE … SET extra_float_digits = …`"),
            ),
        ];
        match refused.into_iter().find(|(is_set, ..)| *is_set) {
            Some((_, key, fix)) => {
                let message =
                    format!("has no effect with `{}pgbouncer = true`: {fix}", place.prefix);
                Err(place.error(key, message))
            }
            None => Ok(()),
        }
    }

    fn check_times(&self, place: Place<'_>) -> Result<(), ConfigError> {
        let Self { statement_timeout, client_check_interval, connect_timeout, .. } = self;
        for (key, time) in keyed![statement_timeout, client_check_interval] {
            let Some(time) = time else { continue };
            if !time.is_zero() && !(1..=MAX_SERVER_MILLIS).contains(&time.as_millis()) {
                let message = "is no time that the server can hold; expected 0 or 1ms to 24days";
                return Err(place.error(key, message));
            }
        }
        if let Some(connect_timeout) = connect_timeout {
            place.not_zero(keyed![connect_timeout])?;
            place.at_most_a_year(keyed![connect_timeout])?;
        }
        Ok(())
    }

    /// The single keys, from wherever they come, in the forms that sqlx takes; and the URL's start-up
    /// options.
    fn resolved(&self, place: Place<'_>) -> Result<(Self, Vec<(String, String)>), ConfigError> {
        let (mut node, url_options) = match &self.url {
            Some(url) => {
                let Self { host, port, user, database, .. } = self;
                let port = &port.map(|port| port.to_string());
                let others = keyed![host, port, user, database];
                if let Some((key, _)) = others.iter().find(|(_, value)| value.is_some()) {
                    let message =
                        format!("stands beside `{}url`; give one of the two", place.prefix);
                    return Err(place.error(key, message));
                }
                let url = UrlSettings::parse(url).map_err(|message| place.error("url", message))?;
                self.merged(url)
            }
            None => (self.clone(), Vec::new()),
        };
        if let Some(host) = &node.host {
            let endpoint = Endpoint::parse(host).map_err(|message| place.error("host", message))?;
            if let (Some(of_file), Some(port)) = (endpoint.port, node.port)
                && of_file != port
            {
                let message = format!("is {port}, and the socket in `host` is that of {of_file}");
                return Err(place.error("port", message));
            }
            node.host = Some(endpoint.host);
            node.port = endpoint.port.or(node.port);
        }
        Ok((node, url_options))
    }

    /// The single keys as a URL.
    ///
    /// sqlx looks into the password file only while it parses a URL, and then for the password of
    /// this very host, port, user and database.
    fn address(&self, place: Place<'_>, options: &[(String, String)]) -> Result<Url, ConfigError> {
        let Self { host, user, password, database, .. } = self;
        let port = &self.port.map(|port| port.to_string());
        let mut url =
            Url::parse("postgres:///").map_err(|err| place.error("url", err.to_string()))?;
        let parts = [
            ("host", host),
            ("port", port),
            ("user", user),
            ("password", password),
            ("dbname", database),
        ];
        let parts = parts.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
        url.query_pairs_mut().extend_pairs(parts).extend_pairs(options);
        Ok(url)
    }
}

/// The longest time that a setting of the server in milliseconds can hold.
const MAX_SERVER_MILLIS: u128 = i32::MAX as u128;

/// The error's text without sqlx's prefix "error with configuration".
fn source_text(err: sqlx::Error) -> String {
    match err {
        sqlx::Error::Configuration(source) => source.to_string(),
        other => other.to_string(),
    }
}

/// The URL without user and password.
fn redacted(url: &str) -> String {
    let Ok(UrlSettings { host, port, database, .. }) = UrlSettings::parse(url) else {
        return "(unreadable)".to_owned();
    };
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let (host, database) = (host.unwrap_or_default(), database.unwrap_or_default());
    format!("postgres://…@{host}{port}/{database}")
}

impl fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeConfig")
            .field("url", &self.url.as_deref().map(redacted))
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("database", &self.database)
            .field("ssl_mode", &self.ssl_mode)
            .field("application_name", &self.application_name)
            .field("pgbouncer", &self.pgbouncer)
            .finish_non_exhaustive()
    }
}
