//! TLS, on servers with certificates of the tests' own authorities. Runs with each of sqlx's back ends, such
//! as `cargo test -p flautino --features tls-rustls-ring --test tls`, and without one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "without TLS only a few of the tests run")]
mod common;
mod keys;

#[cfg(not(any(
    feature = "tls-native-tls",
    feature = "tls-rustls-aws-lc-rs",
    feature = "tls-rustls-ring-webpki",
    feature = "tls-rustls-ring-native-roots",
)))]
mod without_tls;

/// What needs one of the features.
#[cfg(any(
    feature = "tls-native-tls",
    feature = "tls-rustls-aws-lc-rs",
    feature = "tls-rustls-ring-webpki",
    feature = "tls-rustls-ring-native-roots",
))]
mod with_tls {
    mod client_certificates;
    mod discovery;
    mod every_connection;
    mod modes;
    mod passwords;
    mod replaced;
    mod server_rules;
}
