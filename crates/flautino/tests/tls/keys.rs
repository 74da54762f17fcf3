//! What libpq has for TLS and sqlx has not is refused, in a URL and as a key: it is never dropped in silence.

use flautino::{Engine, EngineConfig};

/// A key of libpq, a value that asks for what cannot be had, and what is said.
const REFUSED: [(&str, &str, &str); 14] = [
    ("channel_binding", "require", "verify-full"),
    ("sslnegotiation", "direct", "leave it out"),
    ("sslrootcert", "system", "verify-full"),
    ("sslcrl", "crl.pem", "revoked"),
    ("sslcrldir", "crls", "revoked"),
    ("sslcertmode", "require", "`ssl_client_cert`"),
    ("sslsni", "0", "leave it out"),
    ("sslcompression", "1", "leave it out"),
    ("sslpassword", "hunter2", "`ssl_client_key`"),
    ("sslkeylogfile", "keys", "leave it out"),
    ("ssl_min_protocol_version", "TLSv1.3", "leave it out"),
    ("ssl_max_protocol_version", "TLSv1.2", "leave it out"),
    ("require_auth", "scram-sha-256", "pg_hba.conf"),
    ("sslmode", "verify_full", "verify-full"),
];

#[test]
fn what_cannot_be_had_is_refused_before_anything_is_sent() {
    for (key, value, says) in REFUSED {
        let in_toml = format!("host = 'h'\nuser = 'u'\n{key} = '{value}'");
        let in_url = format!("url = 'postgres://u:p@h/db?{key}={value}'");
        for text in [in_toml, in_url] {
            let said = match EngineConfig::from_toml(&text) {
                Ok(config) => Engine::new(config).expect_err(&text).to_string(),
                Err(error) => error.to_string(),
            };
            assert!(said.contains(says), "{text}: {said}");
            assert!(!said.contains("hunter2"), "{text}: {said}");
        }
    }
}

#[test]
fn what_says_what_is_so_anyway_is_taken() {
    for text in [
        "sslnegotiation=postgres",
        "channel_binding=prefer",
        "sslsni=1",
        "sslcompression=0",
        "sslcertmode=allow",
    ] {
        EngineConfig::from_url(&format!("postgres://u:p@h/db?sslmode=verify-full&{text}")).unwrap();
    }
}

#[test]
fn a_client_s_certificate_and_its_key_are_given_together() {
    for (given, missing) in
        [("ssl_client_cert", "ssl_client_key"), ("ssl_client_key", "ssl_client_cert")]
    {
        let text = |mode: &str| format!("host = 'h'\nssl_mode = '{mode}'\n{given} = 'a.pem'");
        let said = EngineConfig::from_toml(&text("require")).expect_err(given).to_string();
        assert!(said.contains(&format!("`{given}`: ")), "{said}");
        assert!(said.contains(&format!("`{missing}`")), "{said}");
        // Nothing is shown then.
        EngineConfig::from_toml(&text("disable")).unwrap();
    }
}
