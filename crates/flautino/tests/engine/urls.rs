//! The forms of a URL, and libpq's own names: what they lead to, and what is said of those that lead nowhere.

use std::os::unix::fs::PermissionsExt;

use flautino::{Engine, EngineConfig};
use flautino_cluster::Cluster;
use flautino_lab::{cluster, open};
use tokio::net::{TcpListener, TcpStream};

/// Where an engine of this URL would connect to.
fn leads_to(url: &str) -> (String, u16) {
    let config = EngineConfig::from_url(url).unwrap_or_else(|err| panic!("{url}: {err}"));
    let status = Engine::new(config).unwrap().status();
    (status.nodes[0].host.clone(), status.nodes[0].port)
}

#[test]
fn each_form_of_a_url_leads_to_its_server() {
    for (url, host, port) in [
        ("postgres://u@h:5433/db", "h", 5433),
        ("postgresql://u:p@h:5433", "h", 5433),
        ("postgres://u@[::1]:5433/db", "::1", 5433),
        ("postgres://[2001:db8::1]:5433/db?sslmode=disable", "2001:db8::1", 5433),
        ("postgres://u:a[b]@[fe80::1%25eth0]:5433/db", "fe80::1%eth0", 5433),
        ("postgres:///db?host=::1&port=5433", "::1", 5433),
        ("postgres://u@/db?hostaddr=::1&port=5433", "::1", 5433),
        ("postgres://u@/db?host=/run/dir&port=5433", "/run/dir", 5433),
        ("postgres://u:p@:5433/db?host=/run/dir", "/run/dir", 5433),
        ("postgres://u@%2Frun%2Fdir:5433/db", "/run/dir", 5433),
        ("postgres://%2Frun%2Fdir:5433/db", "/run/dir", 5433),
        ("postgres://u@/db?host=/run/dir/.s.PGSQL.5433", "/run/dir", 5433),
        ("postgres://u@%2Frun%2Fdir%2F.s.PGSQL.5433/db", "/run/dir", 5433),
        ("postgres://u:p%2F%3F%23%40@h:5433/db", "h", 5433),
        ("postgres://u:p@ss@h:5433/db", "h", 5433),
        ("postgres://other/db?host=h&port=5433", "h", 5433),
        (" postgres://u@h:5433/db\n", "h", 5433),
    ] {
        assert_eq!(leads_to(url), (host.to_owned(), port), "{url}");
    }
}

fn said_of(text: &str) -> String {
    EngineConfig::from_toml(text).expect_err(text).to_string()
}

#[test]
fn what_ends_a_password_too_early_is_told_with_the_way_to_write_it() {
    for password in
        ["a/b", "a?b", "a#b", "1/b", "1?b", "1#b", "/", "?", "#", "1/b?c", "1?b/c", "1@/b"]
    {
        let said = said_of(&format!("url = 'postgres://me:{password}@h/db'"));
        assert!(said.contains("`url`") && said.contains("%2F") && said.contains("%3F"), "{said}");
    }
}

#[test]
fn libpq_s_names_are_taken_where_they_mean_something_here() {
    let config = EngineConfig::from_toml(
        "host = 'h'\nuser = 'u'\ndbname = 'db'\nsslmode = 'disable'\nsslrootcert = 'a.pem'\n\
         sslcert = 'b.pem'\nsslkey = 'c.pem'\nconnect_timeout = 7\ntarget_session_attrs = 'any'\n\
         channel_binding = 'prefer'\nkeepalives = 0\nclient_encoding = 'UTF8'\n\
         gssencmode = 'disable'\nload_balance_hosts = 'disable'\nsslcompression = 0\n\
         fallback_application_name = 'app'\n[extra_nodes.a]\nhostaddr = '::1'\ndbname = 'db'",
    );
    let config = config.unwrap();
    assert_eq!(config.main.database.as_deref(), Some("db"));
    assert_eq!(config.main.ssl_mode.as_deref(), Some("disable"));
    assert_eq!(config.main.application_name.as_deref(), Some("app"));
    assert_eq!(config.main.connect_timeout.unwrap().as_secs(), 7);
    assert_eq!(config.main.ssl_client_key.unwrap().to_str(), Some("c.pem"));
    assert_eq!(config.extra_nodes["a"].host.as_deref(), Some("::1"));
    leads_to(
        "postgres://u@h/db?sslmode=disable&sslrootcert=a&sslcert=b&sslkey=c&connect_timeout=7\
         &target_session_attrs=any&channel_binding=disable&gssencmode=prefer&client_encoding=utf8\
         &keepalives=0&tcp_user_timeout=0&load_balance_hosts=disable&application_name=x\
         &fallback_application_name=y&options=-c%20a.b%3D1&options[c.d]=e&sslsni=1&ssl=true\
         &statement-cache-capacity=5",
    );
}

#[test]
fn of_libpq_s_other_names_it_is_said_what_to_do() {
    for (key, value, fix) in [
        ("target_session_attrs", "read-write", "extra_nodes"),
        ("target_session_attrs", "standby", "db.replica()"),
        ("load_balance_hosts", "random", "extra_nodes"),
        ("channel_binding", "require", "verify-full"),
        ("keepalives_idle", "30", "tcp_keepalives_idle"),
        ("keepalives", "1", "tcp_keepalives_idle"),
        ("tcp_user_timeout", "1000", "acquire_timeout"),
        ("gssencmode", "require", "leave it out"),
        ("client_encoding", "latin1", "UTF-8"),
        ("service", "mine", "`host`"),
        ("passfile", "/a/b", "PGPASSFILE"),
        ("sslcrl", "a.pem", "leave it out"),
        ("sslpassword", "hunter2", "ssl_client_key"),
        ("requirepeer", "postgres", "leave it out"),
        ("replication", "database", "leave it out"),
    ] {
        let in_toml = said_of(&format!("host = 'h'\n{key} = '{value}'"));
        let in_url = said_of(&format!("url = 'postgres://u:p@h/db?{key}={value}'"));
        for said in [in_toml, in_url] {
            assert!(said.contains(key) && said.contains(fix), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
    let several = said_of("url = 'postgres://u:p@h1:1,h2:2/db'");
    assert!(several.contains("extra_nodes"), "{several}");
    let brackets = said_of("url = 'postgres://u:p@::1:5432/db'");
    assert!(brackets.contains("[::1]"), "{brackets}");
    let beside = said_of("url = 'postgres://u:p@h/db?pgbouncer=true'");
    assert!(beside.contains("`pgbouncer`") || beside.contains("beside"), "{beside}");
}

/// Connects with this URL, and answers what the server says to the question.
async fn answer(url: &str, question: &'static str) -> String {
    let mut config = EngineConfig::from_url(url).unwrap();
    config.extensions.clear();
    let engine = open(config).await;
    let answer = sqlx::query_scalar(question).fetch_one(&engine.handle()).await.unwrap();
    engine.close().await;
    answer
}

#[tokio::test]
async fn a_server_is_reached_by_its_ipv6_address() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        println!("skipped: there is no IPv6 here");
        return;
    };
    let cluster = cluster(0).await;
    let (port, target) = (listener.local_addr().unwrap().port(), cluster.primary().addr());
    let relay = tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(target).await.unwrap();
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    let url =
        format!("postgres://postgres@[::1]:{port}/postgres?sslmode=disable&application_name=six");
    assert_eq!(answer(&url, "SELECT current_setting('application_name')").await, "six");
    relay.abort();
    // The address in a message can be read.
    let mut config = EngineConfig::from_url("postgres://u@[::1]:1/db").unwrap();
    config.startup_timeout = std::time::Duration::from_millis(1);
    let failed = Engine::new(config).unwrap().open().await.unwrap_err().to_string();
    assert!(failed.contains("[::1]:1"), "{failed}");
}

#[tokio::test]
async fn a_server_is_reached_by_its_socket_in_each_form() {
    let dir = tempfile::Builder::new().prefix("fl").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let path = dir.path().to_str().unwrap();
    let builder = Cluster::builder().setting("unix_socket_directories", path);
    let cluster = builder.start().await.unwrap();
    let port = cluster.primary().port();
    let encoded = path.replace('/', "%2F");
    let question = "SELECT (inet_client_addr() IS NULL)::text || current_database()";
    for url in [
        format!("postgres://postgres@/postgres?host={path}&port={port}"),
        format!("postgres://postgres@:{port}/postgres?host={path}&sslmode=require"),
        format!("postgres://postgres@{encoded}:{port}/postgres"),
        format!("postgres://{encoded}:{port}/postgres?user=postgres"),
        format!("postgres://postgres@/postgres?host={path}/.s.PGSQL.{port}"),
    ] {
        assert_eq!(answer(&url, question).await, "truepostgres", "{url}");
    }
    let file = format!("host = '{path}/.s.PGSQL.{port}'\nuser = 'postgres'\nextensions = []");
    let engine = open(EngineConfig::from_toml(&file).unwrap()).await;
    engine.close().await;
}

#[tokio::test]
async fn a_password_in_percent_encoding_is_the_one_that_the_server_gets() {
    let cluster = cluster(0).await;
    // PostgreSQL 13 would keep the password in the old way.
    let sql = "SET password_encryption = 'scram-sha-256'; \
               CREATE ROLE guarded LOGIN PASSWORD 'a/b?c#d@e:f%g+h&i=j k'";
    cluster.primary().execute(sql).await.unwrap();
    let hba = cluster.primary().data_dir().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all guarded all scram-sha-256\n{rules}")).unwrap();
    cluster.primary().execute("SELECT pg_reload_conf()").await.unwrap();
    let port = cluster.primary().port();
    let url = |password: &str| {
        format!("postgres://guarded:{password}@127.0.0.1:{port}/postgres?sslmode=disable")
    };
    flautino_lab::wait_until("a wrong password is refused", async || {
        let mut config = EngineConfig::from_url(&url("wrong")).unwrap();
        config.extensions.clear();
        match Engine::new(config).unwrap().open().await {
            Ok(_) => false,
            Err(err) => {
                let said = err.to_string();
                assert!(said.contains("`password`"), "{said}");
                true
            }
        }
    })
    .await;
    let password = "a%2Fb%3Fc%23d%40e:f%25g+h&i=j%20k";
    assert_eq!(answer(&url(password), "SELECT current_user::text").await, "guarded");
}
