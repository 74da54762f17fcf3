//! What the example's app answers on a real server is what its OpenAPI document says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use flautino_lab::{App, Lab, Served};
use openapi::app;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

const PROBLEM: &str = "application/problem+json";

/// The app, and the document that it serves.
struct Documented {
    app: App,
    api: Value,
}

impl Documented {
    async fn start(lab: &Lab) -> Self {
        let app = App::start(app(&lab.engine), lab.engine.clone()).await;
        let api = json_of(reqwest::get(format!("{}/openapi.json", app.url)).await.unwrap()).await;
        Self { app, api }
    }

    /// Gets a path of this template, and checks the answer.
    async fn get(&self, template: &str, path: &str) -> (StatusCode, Value) {
        let answer = reqwest::get(format!("{}{path}", self.app.url)).await.unwrap();
        self.check(&self.api["paths"][template]["get"], answer).await
    }

    /// Posts titles, and checks the answer.
    async fn add(&self, titles: &[&str]) -> (StatusCode, Value) {
        let operation = &self.api["paths"]["/notes"]["post"];
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        assert_eq!(*body, json!({"type": "array", "items": {"type": "string"}}));
        let post = Client::new().post(format!("{}/notes", self.app.url)).json(titles);
        self.check(operation, post.send().await.unwrap()).await
    }

    /// Checks that the document has this answer's status, media type and members. Returns its status and body.
    async fn check(&self, operation: &Value, answer: Response) -> (StatusCode, Value) {
        let status = answer.status();
        let documented = &operation["responses"][status.as_str()];
        assert!(documented.is_object(), "{status} is not documented: {operation:#}");
        let header = |name: &str| Some(answer.headers().get(name)?.to_str().unwrap().to_owned());
        let promised = documented["headers"].as_object();
        for name in promised.into_iter().flatten().map(|(name, _)| name) {
            assert!(header(name).is_some(), "{status} comes without {name}");
        }
        let Some(content) = documented["content"].as_object() else {
            assert_eq!(answer.text().await.unwrap(), "");
            return (status, Value::Null);
        };
        let media_type = header("content-type").unwrap();
        let schema = &content.get(&media_type).expect(&media_type)["schema"];
        let body = json_of(answer).await;
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.strip_prefix("#/components/schemas/").unwrap();
            let required = &self.api["components"]["schemas"][name]["required"];
            let members = body.as_object().unwrap().keys().map(String::as_str);
            let mut required: Vec<_> =
                required.as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
            required.sort_unstable();
            assert_eq!(members.collect::<Vec<_>>(), required);
        }
        (status, body)
    }
}

async fn json_of(answer: Response) -> Value {
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn each_answer_is_documented_with_its_status_its_media_type_and_its_members() {
    // A title that is there already is found when the transaction commits, so that the layer answers.
    let table = "notes (id bigserial PRIMARY KEY, title text UNIQUE DEFERRABLE INITIALLY DEFERRED)";
    let lab = Lab::named("openapi").table(table).start().await;
    let documented = Documented::start(&lab).await;
    assert_eq!(documented.add(&["flute", "oboe"]).await.0, 201);
    let (status, notes) = documented.get("/notes", "/notes").await;
    assert_eq!((status.as_u16(), &notes[1]["title"]), (200, &json!("oboe")));
    let path = format!("/notes/{}", notes[1]["id"]);
    let (status, note) = documented.get("/notes/{id}", &path).await;
    assert_eq!((status.as_u16(), note), (200, notes[1].clone()));
    assert_eq!(documented.get("/notes/{id}", "/notes/1000").await.0, 404);
    let (status, problem) = documented.add(&["horn", "flute"]).await;
    assert_eq!((status.as_u16(), &problem["status"]), (409, &json!(409)));
    let (_, notes) = documented.get("/notes", "/notes").await;
    assert_eq!(notes.as_array().unwrap().len(), 2, "all or none: {notes}");

    lab.primary().execute("ALTER TABLE notes RENAME TO gone").await.unwrap();
    assert_eq!(documented.get("/notes", "/notes").await.0, 500);
    assert_eq!(documented.add(&["horn"]).await.0, 500);
    lab.engine.close().await;
    assert_eq!(documented.get("/notes/{id}", "/notes/1").await.0, 503);
    documented.app.stop().await;
}

#[tokio::test]
async fn every_problem_in_the_document_has_the_media_type_of_problem_details() {
    let lab = Lab::named("openapi").start().await;
    let documented = Documented::start(&lab).await;
    let mut problems = 0;
    for operations in documented.api["paths"].as_object().unwrap().values() {
        for operation in operations.as_object().unwrap().values() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let content = response["content"].as_object().into_iter().flatten();
                for (media_type, _) in content.filter(|_| status.as_str() >= "400") {
                    assert_eq!(media_type, PROBLEM, "{operation:#}");
                    problems += 1;
                }
            }
        }
    }
    assert_eq!(problems, 8);
    documented.app.stop().await;
}

#[tokio::test]
async fn the_example_serves_its_document_and_stops_in_order() {
    let program = Served::start(env!("CARGO_BIN_EXE_openapi"));
    let api = json_of(reqwest::get(format!("{}/openapi.json", program.url)).await.unwrap()).await;
    assert_eq!(api["info"]["title"], "Notes");
    let note = reqwest::get(format!("{}/notes/1", program.url)).await.unwrap();
    assert_eq!(
        (note.status().as_u16(), &note.headers()["content-type"]),
        (404, &PROBLEM.parse().unwrap())
    );
    assert!(program.stop().success());
}
