//! Ctrl-C and SIGTERM leave nothing behind, whenever they come.

use std::time::Duration;

use flautino_lab::{cluster, wait_until};
use nix::sys::signal::Signal;

use crate::child::{Demo, Place};
use crate::processes::alive;

#[tokio::test]
async fn ctrl_c_and_sigterm_and_sighup_leave_no_process_and_no_folder() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let place = Place::new();
        let mut demo = Demo::start(&mut place.command()).await;
        let family = demo.family();
        assert!(family.len() > 8, "{family:?}");
        assert_eq!(place.servers().len(), 3);
        assert_eq!(place.left().len(), 1, "{:?}", place.left());
        let notes = reqwest::get(format!("{}/notes", demo.url)).await.unwrap();
        assert_eq!(notes.status(), 200);

        demo.send(signal);
        let status = demo.ended().await;
        assert!(status.success(), "{signal}: {status}, {}", place.stderr());
        place.assert_clean();
        assert_eq!(alive(&family), [0; 0], "{signal}");
    }
}

#[tokio::test]
async fn a_request_in_flight_at_sigterm_is_answered() {
    let place = Place::new();
    let mut demo = Demo::start(&mut place.command()).await;
    let sleeping = tokio::spawn(reqwest::get(format!("{}/sleep?seconds=3", demo.url)));
    wait_until("the statement runs", async || {
        let status = reqwest::get(format!("{}/status.json", demo.url)).await;
        let status: serde_json::Value = status.unwrap().json().await.unwrap();
        status["nodes"][0]["in_flight"] == 1
    })
    .await;
    demo.send(Signal::SIGTERM);
    assert_eq!(sleeping.await.unwrap().unwrap().status(), 200);
    assert!(demo.ended().await.success());
    place.assert_clean();
}

#[tokio::test]
async fn a_second_signal_cuts_what_the_first_waits_for() {
    let place = Place::new();
    let mut demo = Demo::start(&mut place.command()).await;
    let sleeping = tokio::spawn(reqwest::get(format!("{}/sleep?seconds=3600", demo.url)));
    wait_until("the statement runs", async || {
        let status = reqwest::get(format!("{}/status.json", demo.url)).await;
        let status: serde_json::Value = status.unwrap().json().await.unwrap();
        status["nodes"][0]["in_flight"] == 1
    })
    .await;
    demo.send(Signal::SIGINT);
    wait_until("new connections are refused", async || {
        reqwest::get(format!("{}/livez", demo.url)).await.is_err()
    })
    .await;
    demo.send(Signal::SIGINT);
    let ended = tokio::time::timeout(Duration::from_secs(10), demo.ended());
    assert!(ended.await.unwrap().success(), "{}", place.stderr());
    sleeping.await.unwrap().unwrap_err();
    place.assert_clean();
}

#[tokio::test]
async fn sigterm_while_it_starts_leaves_nothing() {
    // When its folder is there, when a server runs, and when all of them do.
    for (what, servers) in [("a folder", 0), ("a server", 1), ("all servers", 3)] {
        let place = Place::new();
        let mut demo = Demo::launch(&mut place.command());
        wait_until(what, async || !place.left().is_empty() && place.servers().len() >= servers)
            .await;
        let family = demo.family();
        demo.send(Signal::SIGTERM);
        let status = demo.ended().await;
        assert!(status.success(), "{what}: {status}, {}", place.stderr());
        place.assert_clean();
        assert_eq!(alive(&family), [0; 0], "{what}");
    }
}

#[tokio::test]
async fn a_signal_right_after_the_first_line_is_not_lost() {
    let cluster = cluster(0).await;
    for round in 0..40 {
        let place = Place::new();
        let mut command = place.command();
        let mut demo = Demo::start(command.env("DATABASE_URL", cluster.primary().url())).await;
        demo.send(Signal::SIGTERM);
        let ended = tokio::time::timeout(Duration::from_secs(5), demo.ended());
        let status = ended.await.unwrap_or_else(|_| panic!("lost in round {round}"));
        assert!(status.success(), "round {round}: {status}");
    }
}
