//! `cargo run -p patroni`: what it prints works, and Ctrl-C leaves nothing.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use flautino_lab::{program, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The example, which ends in order also when the test fails, so that no server is left.
struct Demo(Child);

impl Demo {
    fn interrupt(&self) {
        if let Some(pid) = self.0.id() {
            let _ = kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGINT);
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.interrupt();
        for _ in 0..1500 {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[tokio::test]
async fn what_it_prints_works_and_ctrl_c_leaves_nothing() {
    if program("patroni").is_none() || program("etcd").is_none() {
        return;
    }
    let tmp = tempfile::Builder::new().prefix("patroni-demo-").tempdir().unwrap();
    // As root the servers run as another user, who must get through.
    std::fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_patroni"))
        .env("PORT", "0")
        .env("TMPDIR", tmp.path())
        .env_remove("PATRONI_APIS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut demo = Demo(demo);
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let mut line_with = async |text: &str| loop {
        let line = lines.next_line().await.unwrap().expect("the example goes on");
        if line.contains(text) {
            break line.trim().to_owned();
        }
    };
    let url = line_with("listening on ").await.split_off("listening on ".len());
    let switchover = line_with("switchover").await;

    let http = reqwest::Client::builder().cookie_store(true).build().unwrap();
    let visits = async || {
        assert_eq!(http.post(&url).send().await.unwrap().status(), 200);
        http.get(&url).send().await.unwrap().text().await.unwrap()
    };
    assert_eq!(visits().await, "visits: 1");
    let status = async || -> Value {
        let status = http.get(format!("{url}/status.json")).send().await.unwrap();
        serde_json::from_str(&status.text().await.unwrap()).unwrap()
    };
    assert_eq!(status().await["primary"], "main");
    assert_eq!(status().await["nodes"].as_array().unwrap().len(), 3);

    let done = Command::new("sh").args(["-c", &switchover]).output().await.unwrap();
    // It ends with a success also where Patroni refuses.
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("Successfully switched over"), "{said} {done:?}");
    assert_eq!(visits().await, "visits: 2");
    wait_until("another node is the primary", async || {
        let status = status().await;
        status["primary"].is_string() && status["primary"] != "main"
    })
    .await;
    assert_eq!(visits().await, "visits: 3");

    demo.interrupt();
    let ended = tokio::time::timeout(Duration::from_secs(60), demo.0.wait()).await;
    assert!(ended.expect("it ends").unwrap().success());
    assert!(std::fs::read_dir(tmp.path()).unwrap().next().is_none());
    let left = std::process::Command::new("ps").args(["-ww", "-axo", "command="]).output().unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    let dir = tmp.path().to_string_lossy().into_owned();
    assert!(!left.lines().any(|line| line.contains(&dir)), "{left}");
}
