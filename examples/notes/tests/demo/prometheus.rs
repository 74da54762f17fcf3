//! A real Prometheus that scrapes the demo: the dashboard's queries, and the alert rules.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flautino_lab::{program, wait_until, wait_until_or_tell};
use serde_json::Value;

use crate::child::{Demo, Place};

/// What is told only when it happens, which the demo does not do by itself.
const RARE: [&str; 3] =
    ["flautino_request_repeats_total", "error_type!=\"\"", "db_client_connection_create_time"];

fn telemetry() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("telemetry")
}

/// The queries of the dashboard, for all jobs and instances.
fn queries() -> Vec<String> {
    let text = std::fs::read_to_string(telemetry().join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let query = |target: &Value| target["expr"].as_str().unwrap().to_owned();
    targets
        .map(query)
        .map(|query| query.replace("$job", ".*").replace("$instance", ".*"))
        .map(|query| query.replace("$__rate_interval", "10s"))
        .collect()
}

/// Words of a text that begin as our metrics do.
fn names(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_name = |word: &&str| word.starts_with("flautino_") || word.starts_with("db_client_");
    let labels = ["db_client_connection_state", "flautino_engine", "flautino_node"];
    words.filter(is_name).filter(|word| !labels.contains(word)).collect()
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_use_names_that_the_demo_serves() {
    let place = Place::new();
    let demo = Demo::start(&mut place.command()).await;
    let note = serde_json::json!({ "title": "measured" });
    let notes = format!("{}/notes", demo.url);
    demo.client.post(&notes).json(&note).send().await.unwrap().error_for_status().unwrap();
    demo.client.get(&notes).send().await.unwrap().error_for_status().unwrap();
    let page = async || {
        let page = demo.client.get(format!("{}/metrics", demo.url)).send().await.unwrap();
        page.error_for_status().unwrap().text().await.unwrap()
    };
    wait_until("the nodes are measured", async || {
        page().await.contains("flautino_node_lag_seconds")
    })
    .await;
    let page = page().await;
    let is_served = |name: &str| {
        page.lines().any(|line| line.split(['{', ' ']).next() == Some(name)) || name == RARE[0]
    };
    let alerts = std::fs::read_to_string(telemetry().join("alerts.yml")).unwrap();
    let rules = alerts.lines().filter(|line| !line.contains("description"));
    let texts: Vec<String> = queries().into_iter().chain(rules.map(str::to_owned)).collect();
    let mut looked_at = 0;
    for name in texts.iter().flat_map(|text| names(text)) {
        assert!(is_served(name), "{name} is not in:\n{page}");
        looked_at += 1;
    }
    assert!(looked_at > 25, "{looked_at}");
    // Nobody's name, password or text of a statement.
    for secret in ["measured", "SELECT", "INSERT"] {
        assert!(!page.contains(secret), "{secret} is in:\n{page}");
    }
}

/// A server that scrapes; ended with the test.
struct Prometheus {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Prometheus {
    async fn start(program: PathBuf, place: &Place, target: &str) -> Self {
        let config = place.work.path().join("prometheus.yml");
        let rules = telemetry().join("alerts.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{ job_name: notes, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            rules.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", place.work.path().join("tsdb").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut prometheus = Self { child, url: String::new(), client: reqwest::Client::new() };
        let (sender, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // To the end, so that it does not wait for somebody who reads.
            for line in stderr.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("msg=\"Listening on\" address=") {
                    let _ = sender.send(address.to_owned());
                }
            }
        });
        let address = address.recv_timeout(Duration::from_secs(60));
        prometheus.url = format!("http://{}", address.expect("the server says where it listens"));
        wait_until("Prometheus is ready", async || {
            let ready = prometheus.client.get(format!("{}/-/ready", prometheus.url)).send().await;
            ready.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        prometheus
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let mut url = reqwest::Url::parse(&format!("{}{path}", self.url)).unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.client.get(url).send().await.unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        answer["data"].clone()
    }

    /// Whether the query has a result now that is a number.
    async fn answers(&self, query: &str) -> bool {
        let data = self.get("/api/v1/query", &[("query", query)]).await;
        data["result"].as_array().unwrap().iter().any(|of| of["value"][1] != "NaN")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn prometheus_scrapes_it_answers_the_dashboard_and_notices_an_outage() {
    let Some(prometheus) = program("prometheus") else { return };
    let place = Place::new();
    let demo = Demo::start(&mut place.command()).await;
    let target = demo.url.trim_start_matches("http://");
    let prometheus = Prometheus::start(prometheus, &place, target).await;
    let act = async |path: &str| {
        let answer = demo.client.post(format!("{}/demo/{path}", demo.url)).send().await.unwrap();
        answer.error_for_status().unwrap();
    };
    // So that there is a rate of everything.
    act("load/on").await;
    let is_rare = |query: &String| RARE.iter().any(|rare| query.contains(rare));
    for query in queries().iter().filter(|query| !is_rare(query)) {
        // A replica that dies has its reads run again: without that there is no event.
        let is_event = query.contains("flautino_events_total");
        if is_event {
            act("nodes/read_replica_1/kill").await;
        }
        let tell = || query.clone();
        wait_until_or_tell(
            "the query has a result",
            async || prometheus.answers(query).await,
            tell,
        )
        .await;
        if is_event {
            act("nodes/read_replica_1/return").await;
        }
    }
    // Those too are queries.
    for query in queries() {
        prometheus.answers(&query).await;
    }
    act("nodes/main/kill").await;
    wait_until("the rules have noticed", async || {
        let data = prometheus.get("/api/v1/alerts", &[]).await;
        let names = data["alerts"].as_array().unwrap().iter();
        let names: Vec<_> =
            names.map(|alert| alert["labels"]["alertname"].as_str().unwrap()).collect();
        names.contains(&"FlautinoNodeDown") && names.contains(&"FlautinoNoPrimary")
    })
    .await;
}

#[test]
fn the_alert_rules_do_what_their_tests_say() {
    let Some(promtool) = program("promtool") else { return };
    for (kind, file) in [("rules", "alerts.yml"), ("config", "prometheus.yml")] {
        run(Command::new(&promtool).args(["check", kind, file]));
    }
    run(Command::new(&promtool).args(["test", "rules", "alerts_test.yml"]));
}

fn run(command: &mut Command) {
    let output = command.current_dir(telemetry()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}
