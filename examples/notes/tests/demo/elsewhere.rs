//! The demo on a database that is there already.

use flautino_lab::cluster;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::child::{Demo, Place};

#[tokio::test]
async fn with_database_url_or_a_file_it_starts_no_cluster_of_its_own() {
    let cluster = cluster(1).await;
    let place = Place::new();
    let file = place.work.path().join("notes.toml");
    let text = format!(
        "url = \"{}\"\nextensions = []\n[extra_nodes.mirror]\nurl = \"{}\"\n",
        cluster.primary().url(),
        cluster.replica(0).url()
    );
    std::fs::write(&file, text).unwrap();
    let settings = [
        ("DATABASE_URL", cluster.primary().url(), json!(["main"])),
        ("FLAUTINO_CONF", file.display().to_string(), json!(["main", "mirror"])),
    ];
    for (round, (name, value, nodes)) in settings.into_iter().enumerate() {
        let mut command = place.command();
        // A demo that looked for server programs would say so.
        command.env(name, value).env("FLAUTINO_PG_BIN", place.work.path());
        let mut demo = Demo::start(&mut command).await;
        assert_eq!(place.left(), [""; 0]);
        assert_eq!(place.servers(), [0; 0]);
        let url = format!("{}/notes", demo.url);
        let new = reqwest::Client::new().post(&url).json(&json!({"title": name}));
        assert_eq!(new.send().await.unwrap().status(), 201);
        let status = reqwest::get(format!("{}/status.json", demo.url)).await.unwrap();
        let status: serde_json::Value = status.json().await.unwrap();
        let listed = status["nodes"].as_array().unwrap().iter();
        let names: Vec<_> = listed.map(|node| node["name"].clone()).collect();
        assert_eq!(json!(names), nodes);
        demo.send(Signal::SIGTERM);
        assert!(demo.ended().await.success());

        let mut connection = cluster.primary().connect().await.unwrap();
        let sql = "SELECT title FROM notes ORDER BY id";
        let stored: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
        assert_eq!(stored, ["DATABASE_URL", "FLAUTINO_CONF"][..=round]);
        assert!(cluster.primary().is_running());
    }
}
