//! libpq's environment variables about TLS and logging in. Those that sqlx does not read are refused: dropped in
//! silence, a connection would be less secure than its user believes.

use std::str::FromStr;

use sqlx::postgres::PgSslMode;

use super::check::{Place, SSL_MODES};
use super::libpq::{self, Meaning};
use crate::error::ConfigError;

/// Each with the key of libpq that it stands for.
const VARIABLES: [(&str, &str); 10] = [
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
];

/// Fails for a variable that asks for what cannot be had.
pub(super) fn check(has_ssl_mode: bool) -> Result<(), ConfigError> {
    check_with(has_ssl_mode, variable)
}

/// The value of a variable. An empty one counts as unset.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn check_with(
    has_ssl_mode: bool,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    let place = Place { origin: "the environment", prefix: "" };
    for (name, key) in VARIABLES {
        if let (Some(value), Some(Meaning::Fixed(fixed))) = (variable(name), libpq::meaning(key)) {
            fixed.check(&value).map_err(|message| place.error(name, message))?;
        }
    }
    // sqlx would take one that it does not know for `prefer`.
    match variable("PGSSLMODE") {
        Some(mode) if !has_ssl_mode && PgSslMode::from_str(&mode).is_err() => {
            Err(place.error("PGSSLMODE", format!("is \"{mode}\"; expected {SSL_MODES}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variable: &str, value: &str) -> Result<(), ConfigError> {
        check_with(false, |name| (name == variable).then(|| value.to_owned()))
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_variable_and_the_fix() {
        for (variable, value, fix) in [
            ("PGCHANNELBINDING", "require", "verify-full"),
            ("PGSSLNEGOTIATION", "direct", "leave it out"),
            ("PGREQUIREAUTH", "scram-sha-256", "pg_hba.conf"),
            ("PGSSLMINPROTOCOLVERSION", "TLSv1.3", "leave it out"),
            ("PGSSLMODE", "verify_full", "verify-full"),
        ] {
            let said = with(variable, value).expect_err(variable).to_string();
            assert!(said.contains(&format!("`{variable}`")) && said.contains(fix), "{said}");
        }
    }

    #[test]
    fn what_is_so_anyway_or_does_not_count_is_taken() {
        for (variable, value) in [
            ("PGCHANNELBINDING", "prefer"),
            ("PGSSLNEGOTIATION", "postgres"),
            ("PGSSLMODE", "verify-full"),
        ] {
            assert!(with(variable, value).is_ok(), "{variable}={value}");
        }
        // The configuration's own mode wins.
        let variable = |name: &str| (name == "PGSSLMODE").then(|| "verify_full".to_owned());
        assert!(check_with(true, variable).is_ok());
    }

    #[test]
    fn each_variable_stands_for_a_key_with_which_nothing_can_be_chosen() {
        for (variable, key) in VARIABLES {
            assert!(matches!(libpq::meaning(key), Some(Meaning::Fixed(_))), "{variable}");
        }
    }
}
