//! A connection URL, in the forms that libpq and sqlx know. No error quotes a part of it that may be a
//! password.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgSslMode;
use url::form_urlencoded;

use super::check::SSL_MODES;
use super::endpoint::{Endpoint, port_of};
use super::libpq::{self, Meaning};

const FORM: &str = "expected postgres://user:password@host:port/database";
const ENCODE: &str =
    "in a user name or a password, write `/` as %2F, `?` as %3F, `#` as %23 and `@` as %40";

/// What a URL says; each part is the node's setting of that name.
#[derive(Debug, Default)]
pub(super) struct UrlSettings {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: Option<String>,
    pub(super) ssl_mode: Option<String>,
    pub(super) ssl_root_cert: Option<PathBuf>,
    pub(super) ssl_client_cert: Option<PathBuf>,
    pub(super) ssl_client_key: Option<PathBuf>,
    pub(super) statement_cache_capacity: Option<usize>,
    pub(super) application_name: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
    /// Start-up options as text, or as `options[name]`: sqlx takes both as parameters of a URL.
    pub(super) options: Vec<(String, String)>,
}

impl UrlSettings {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.contains(char::is_control) {
            return Err("has a control character in it, such as a line's end".to_owned());
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("is no URL; {FORM}"));
        };
        if !["postgres", "postgresql"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            return Err(format!("has another scheme than `postgres`; {FORM}"));
        }
        if rest.contains('#') {
            return Err(format!("has a `#` in it; {ENCODE}"));
        }
        let authority_ends = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, behind) = rest.split_at(authority_ends);
        let (path, query) = behind.split_once('?').unwrap_or((behind, ""));
        if path.contains('@') {
            return Err(format!("has an `@` behind a `/`; {ENCODE}"));
        }
        let mut settings = Self::default();
        settings.read(authority, path, query).map_err(|error| {
            // What was taken for the host or a parameter may be a part of the password.
            let is_misread = query.contains('@') && !authority.contains('@');
            if is_misread { format!("has an `@` behind a `?`; {ENCODE}") } else { error }
        })?;
        Ok(settings)
    }

    fn read(&mut self, authority: &str, path: &str, query: &str) -> Result<(), String> {
        let host_and_port = match authority.rsplit_once('@') {
            Some((credentials, host_and_port)) => {
                let (user, password) = match credentials.split_once(':') {
                    Some((user, password)) => (user, Some(password)),
                    None => (credentials, None),
                };
                self.user = non_empty(decoded(user)?);
                self.password = password.map(decoded).transpose()?.and_then(non_empty);
                host_and_port
            }
            None => authority,
        };
        let (host, port) = split_port(host_and_port)?;
        self.set_host(&decoded(host)?)?;
        if !port.is_empty() {
            self.set_port(port)?;
        }
        self.database = non_empty(decoded(path.trim_start_matches('/'))?);
        // The name of a parameter may be a part of a password, if the URL is cut at the wrong place.
        let may_be_secret = (authority.contains(':') && !authority.contains('@'))
            || form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "password");
        let mut address = None;
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.contains('\0') {
                return Err("has a NUL in a parameter".to_owned());
            }
            if key == "hostaddr" {
                address = non_empty(value.into_owned());
            } else if !self.set(&key, &value)? {
                if query.contains('@') {
                    return Err(format!("has an `@` behind a `?`; {ENCODE}"));
                }
                return Err(unknown(if may_be_secret { None } else { Some(&*key) }));
            }
        }
        if let Some(address) = address {
            if self.host.is_some() {
                let fix =
                    "has both a host and `hostaddr`; give the address alone, or the name alone";
                return Err(fix.to_owned());
            }
            if address.parse::<IpAddr>().is_err() {
                return Err("has a `hostaddr` that is no IP address".to_owned());
            }
            self.host = Some(address);
        }
        Ok(())
    }

    /// Takes a parameter. Returns whether it is known.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let wrong =
            |expected: &str| format!("has a `{key}` that is not acceptable; expected {expected}");
        match key {
            "host" => self.set_host(value)?,
            "port" => self.set_port(value)?,
            "user" => self.user = non_empty(value.to_owned()),
            "password" => self.password = non_empty(value.to_owned()),
            "dbname" => self.database = non_empty(value.to_owned()),
            "sslmode" | "ssl-mode" => {
                PgSslMode::from_str(value).map_err(|_| wrong(SSL_MODES))?;
                self.ssl_mode = Some(value.to_owned());
            }
            // As libpq takes it, for URLs that were written for JDBC.
            "ssl" if value == "true" => self.ssl_mode = Some("require".to_owned()),
            "ssl" => return Err("has `ssl`; write `sslmode`".to_owned()),
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => self.ssl_root_cert = Some(value.into()),
            "sslcert" | "ssl-cert" => self.ssl_client_cert = Some(value.into()),
            "sslkey" | "ssl-key" => self.ssl_client_key = Some(value.into()),
            "statement-cache-capacity" => {
                self.statement_cache_capacity = Some(value.parse().map_err(|_| wrong("a number"))?);
            }
            "application_name" => self.application_name = Some(value.to_owned()),
            "fallback_application_name" => {
                self.application_name.get_or_insert_with(|| value.to_owned());
            }
            "connect_timeout" => {
                let seconds = value.parse().map_err(|_| wrong("a number of seconds"))?;
                self.connect_timeout = Some(Duration::from_secs(seconds));
            }
            "options" => self.options.push((key.to_owned(), value.to_owned())),
            _ if key.starts_with("options[") && key.ends_with(']') => {
                self.options.push((key.to_owned(), value.to_owned()));
            }
            _ => {
                let Some(Meaning::Fixed(fixed)) = libpq::meaning(key) else { return Ok(false) };
                fixed.check(value).map_err(|error| format!("has `{key}`, which {error}"))?;
            }
        }
        Ok(true)
    }

    /// An empty host is none, as in libpq.
    fn set_host(&mut self, host: &str) -> Result<(), String> {
        if host.is_empty() {
            return Ok(());
        }
        let parsed = Endpoint::parse(host).map_err(|error| match error.strip_prefix("has ") {
            Some(_) => error,
            None => format!("has a host that {error}"),
        });
        let Endpoint { host, port } = parsed?;
        self.host = Some(host);
        self.port = port.or(self.port);
        Ok(())
    }

    fn set_port(&mut self, port: &str) -> Result<(), String> {
        if port.contains(',') {
            return Err(Endpoint::parse(port).err().unwrap_or_default());
        }
        self.port = Some(port_of(port)?);
        Ok(())
    }
}

/// Splits the port off. An IPv6 address stands in brackets.
fn split_port(text: &str) -> Result<(&str, &str), String> {
    if text.contains(',') {
        return Ok((text, ""));
    }
    if text.starts_with('[') {
        let end = text.find(']').map_or(text.len(), |end| end + 1);
        let (host, port) = text.split_at(end);
        return match port.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if port.is_empty() => Ok((host, "")),
            None => Err("has text between an IPv6 address and its port".to_owned()),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("has more than one `:` in its host; write an IPv6 address as [::1]".to_owned())
        }
        Some((host, port)) => Ok((host, port)),
        None => Ok((text, "")),
    }
}

fn decoded(text: &str) -> Result<String, String> {
    // `+` stays what it is, other than in a form.
    let plain = text.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let mut pairs = form_urlencoded::parse(plain.as_bytes());
    let decoded = pairs.next().map_or(Cow::Borrowed(""), |(text, _)| text);
    if decoded.contains('\u{fffd}') && !text.contains('\u{fffd}') {
        return Err("has percent-encoded text that is not UTF-8".to_owned());
    }
    if decoded.contains('\0') {
        return Err("has a NUL in it".to_owned());
    }
    Ok(decoded.into_owned())
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn unknown(key: Option<&str>) -> String {
    let key = key.map(|key| format!(" `{key}`")).unwrap_or_default();
    format!(
        "has the unknown parameter{key}; a URL takes libpq's parameters, and all else is a key beside \
         `url`"
    )
}
