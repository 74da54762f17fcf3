//! A demo that cannot start says why, ends, and leaves nothing.

use std::net::TcpListener;
use std::process::Command;

use flautino_lab::cluster;

use crate::child::{Demo, Place};

/// Runs to the end; answers what it said, all of it on stderr.
async fn refusal(place: &Place, command: &mut Command) -> String {
    let mut demo = Demo::launch(command);
    let status = demo.ended().await;
    let text = place.stderr();
    assert!(!status.success(), "{text}");
    assert_eq!(demo.line().await, None);
    assert!(!text.contains("panicked"), "{text}");
    place.assert_clean();
    text
}

#[tokio::test]
async fn a_port_that_is_taken_or_none_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = async |value: &str| {
        let place = Place::new();
        refusal(&place, place.command().env("PORT", value)).await
    };
    let text = refused(&port).await;
    assert!(text.contains(&port) && text.contains("PORT=0 takes a free port"), "{text}");
    for value in ["abc", "65536", "-1", ""] {
        let text = refused(value).await;
        assert!(text.contains(&format!("PORT is {value:?}; expected 0 to 65535")), "{text}");
    }
}

#[tokio::test]
async fn without_server_programs_it_says_what_to_install() {
    let place = Place::new();
    let empty = tempfile::tempdir().unwrap();
    let mut command = place.command();
    command.env("PATH", "").env("FLAUTINO_PG_BIN", empty.path());
    let text = refusal(&place, &mut command).await;
    assert!(text.contains(&*empty.path().to_string_lossy()), "{text}");
    assert!(text.contains("initdb, postgres, pg_ctl"), "{text}");
    for install in ["apt-get install postgresql", "brew install postgresql"] {
        assert!(text.contains(install), "no {install:?} in: {text}");
    }
}

#[tokio::test]
async fn a_broken_configuration_is_named_without_its_secrets() {
    for (text, place_of_error) in [
        ("password = \"geheim\"\nhost = ", "line 2"),
        ("password = geheim", "line 1"),
        ("password = \"geheim\"\nhots = \"localhost\"", "hots"),
        ("password = \"geheim\"\nport = 65536", "port"),
        ("url = \"http://postgres:geheim@localhost/notes\"", "url"),
        ("url = \"postgres://postgres:geheim@localhost:port/notes\"", "url"),
    ] {
        let place = Place::new();
        let file = place.work.path().join("broken.toml");
        std::fs::write(&file, text).unwrap();
        let said = refusal(&place, place.command().env("FLAUTINO_CONF", &file)).await;
        assert!(said.contains("broken.toml"), "{text}: {said}");
        assert!(said.contains(place_of_error), "{text}: {said}");
        assert!(!said.contains("geheim"), "{text}: {said}");
    }
    let place = Place::new();
    let said = refusal(&place, place.command().env("FLAUTINO_CONF", "gone.toml")).await;
    assert!(said.contains("gone.toml"), "{said}");
}

#[tokio::test]
async fn a_database_that_refuses_or_does_not_answer_is_named() {
    let cluster = cluster(0).await;
    let place = Place::new();
    let url = cluster.primary().url_for("no_such_database");
    let url = url.replace("postgres@", "postgres:geheim@");
    let said = refusal(&place, place.command().env("DATABASE_URL", url)).await;
    assert!(said.contains("no_such_database"), "{said}");
    assert!(!said.contains("geheim"), "{said}");

    let file = place.work.path().join("down.toml");
    let url = cluster.primary().url();
    std::fs::write(&file, format!("url = \"{url}\"\nstartup_timeout = \"300ms\"")).unwrap();
    cluster.primary().stop().await.unwrap();
    let said = refusal(&place, place.command().env("FLAUTINO_CONF", &file)).await;
    let port = cluster.primary().port().to_string();
    assert!(said.contains(&port) && said.contains("no usable server"), "{said}");
}
