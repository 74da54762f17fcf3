//! What the demo answers, request by request.

use std::time::{Duration, Instant};

use flautino_lab::wait_until;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::child::{Demo, Place};

/// Sends a request and answers its response.
async fn send(demo: &Demo, method: Method, path: &str, body: Option<Value>) -> Response {
    let request = demo.client.request(method, format!("{}{path}", demo.url));
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    request.send().await.unwrap()
}

/// The same; answers status and JSON, null where there is no body.
async fn ask(demo: &Demo, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let answer = send(demo, method, path, body).await;
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let value = match &*text {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap(),
    };
    (status, value)
}

async fn get(demo: &Demo, path: &str) -> (u16, Value) {
    ask(demo, Method::GET, path, None).await
}

#[tokio::test]
async fn every_route_keeps_the_contract() {
    let place = Place::new();
    let demo = Demo::start(&mut place.command()).await;
    println!("the demo was up after {:?}", demo.up_after);
    assert!(demo.up_after < Duration::from_secs(30), "{:?}", demo.up_after);

    assert_eq!(get(&demo, "/notes").await, (200, json!([])));
    let new = json!({"title": "a", "body": "b"});
    let (status, note) = ask(&demo, Method::POST, "/notes", Some(new)).await;
    assert_eq!(status, 201);
    assert_eq!((&note["title"], &note["body"]), (&json!("a"), &json!("b")));
    let keys: Vec<_> = note.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["body", "created_at", "id", "title"]);
    let created = note["created_at"].as_str().unwrap();
    let age = OffsetDateTime::now_utc() - OffsetDateTime::parse(created, &Rfc3339).unwrap();
    assert!(age.abs() < Duration::from_secs(60), "{created}");
    let path = format!("/notes/{}", note["id"]);
    assert_eq!(get(&demo, &path).await, (200, note.clone()));

    let changed = json!({"title": "c"});
    let (status, changed) = ask(&demo, Method::PUT, &path, Some(changed)).await;
    assert_eq!((status, &changed["title"]), (200, &json!("c")));
    assert_eq!(changed["created_at"], note["created_at"]);
    assert_eq!(get(&demo, &path).await, (200, changed));
    let import = json!([{"title": "x"}, {"title": "y", "body": "z"}]);
    let (status, imported) = ask(&demo, Method::POST, "/notes/import", Some(import)).await;
    assert_eq!((status, imported), (201, json!({"count": 2})));
    let (_, all) = get(&demo, "/notes").await;
    let titles: Vec<_> = all.as_array().unwrap().iter().map(|n| &n["title"]).collect();
    assert_eq!(titles, ["c", "x", "y"]);
    let (_, limited) = get(&demo, "/notes?limit=2").await;
    assert_eq!(limited.as_array().unwrap()[..], all.as_array().unwrap()[..2]);
    // All or none: the last is refused, after the first was inserted.
    let import = json!([{"title": "lost"}, {"title": ""}]);
    let (status, _) = ask(&demo, Method::POST, "/notes/import", Some(import)).await;
    assert_eq!(status, 422);
    assert_eq!(get(&demo, "/notes").await, (200, all));

    let gone = send(&demo, Method::DELETE, &path, None).await;
    assert_eq!(gone.status(), 204);
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let body = (method == Method::PUT).then(|| json!({"title": "again"}));
        let answer = send(&demo, method.clone(), &path, body).await;
        assert_eq!(answer.status(), 404, "{method}");
    }

    let started = Instant::now();
    let slept = get(&demo, "/sleep?seconds=0.2").await;
    assert_eq!(slept, (200, json!({"slept": 0.2})));
    assert!(started.elapsed() >= Duration::from_millis(200));
    for path in ["/livez", "/readyz"] {
        assert_eq!(send(&demo, Method::GET, path, None).await.status(), 200);
    }
    let answer = send(&demo, Method::GET, "/notes", None).await;
    let timing = answer.headers()["server-timing"].to_str().unwrap();
    assert!(timing.starts_with("db;dur="), "{timing}");
    assert!(timing.contains("desc=\""), "{timing}");
}

#[tokio::test]
async fn a_named_node_answers_and_status_json_says_where_it_is() {
    let place = Place::new();
    let mut demo = Demo::start(&mut place.command()).await;
    let status = get(&demo, "/status.json").await.1;
    assert_eq!((&status["open"], &status["primary"]), (&json!(true), &json!("main")));
    let nodes = status["nodes"].as_array().unwrap();
    let roles: Vec<_> = nodes.iter().map(|node| &node["role"]).collect();
    assert_eq!(roles, ["primary", "replica", "replica"]);
    // What runs where is printed too.
    for node in nodes {
        let line = demo.line().await.unwrap();
        let (name, port) = (node["name"].as_str().unwrap(), &node["port"]);
        assert!(
            line.contains(name) && line.ends_with(&node["role"].as_str().unwrap()[1..]),
            "{line}"
        );
        assert!(line.contains(&format!("127.0.0.1:{port}")), "{line}");
    }
    let psql = demo.line().await.unwrap();
    assert!(psql.contains("psql postgres://"), "{psql}");

    // A replica that stands still knows less than the others: so it is it that answers.
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", nodes[1]["port"]);
    let mut replica = PgConnection::connect(&url).await.unwrap();
    let count = async |node: &str| get(&demo, &format!("/notes/count?node={node}")).await.1;
    wait_until("the table is there", async || count("read_replica_1").await["count"] == 0).await;
    replica.execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let new = Some(json!({"title": "a"}));
    assert_eq!(ask(&demo, Method::POST, "/notes", new).await.0, 201);
    assert_eq!(count("main").await, json!({"count": 1, "node": "main"}));
    wait_until("the other replica has it", async || {
        count("read_replica_2").await == json!({"count": 1, "node": "read_replica_2"})
    })
    .await;
    let behind = json!({"count": 0, "node": "read_replica_1"});
    assert_eq!(count("read_replica_1").await, behind);
    replica.execute("SELECT pg_wal_replay_resume()").await.unwrap();

    let (status, error) = get(&demo, "/notes/count?node=elsewhere").await;
    assert_eq!(status, 404);
    let text = error["detail"].as_str().unwrap();
    for name in ["elsewhere", "main", "read_replica_1", "read_replica_2"] {
        assert!(text.contains(name), "{text}");
    }
    assert_eq!(get(&demo, "/notes/count").await.0, 200);
}
