//! The program: starts, is asked, and stops in order.

use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

#[tokio::test]
async fn the_example_greets_who_has_logged_in_and_stops_in_order() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_sessions"))
        .arg("127.0.0.1:0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().expect("a first line on stdout");
    let url = line.strip_prefix("listening on ").expect(&line);
    let client = Client::builder().cookie_store(true).build().unwrap();
    let greeting = client.get(url).send().await.unwrap().text().await.unwrap();
    assert!(greeting.starts_with("hello stranger, "), "{greeting}");
    let login = client.post(format!("{url}/login/ada")).send().await.unwrap();
    assert_eq!(login.status(), 200);
    let greeting = client.get(url).send().await.unwrap().text().await.unwrap();
    assert!(greeting.starts_with("hello ada, "), "{greeting}");
    let pid = program.id().unwrap().try_into().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert!(program.wait().await.unwrap().success());
}
