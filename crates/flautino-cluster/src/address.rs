//! How to reach the server on a port of this machine, as its superuser `postgres`.

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// As a URL.
pub(crate) fn url(port: u16, database: &str) -> String {
    let mut url = format!("postgres://postgres@127.0.0.1:{port}/");
    for byte in database.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

/// As options of sqlx, for the database `postgres`.
pub(crate) fn connect_options(port: u16) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port)
        .username("postgres")
        .database("postgres")
        .ssl_mode(PgSslMode::Disable)
}

/// As the connection string of libpq, for PostgreSQL's own programs.
pub(crate) fn conninfo(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres sslmode=disable gssencmode=disable")
}
