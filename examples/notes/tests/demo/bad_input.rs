//! What the demo answers to what no client should send; and that it goes on.

use reqwest::{Client, Method, RequestBuilder};

use crate::child::{Demo, Place};

/// A good request after each bad one.
async fn goes_on(client: &Client, url: &str) {
    let request = client.post(format!("{url}/notes"));
    let good = request.json(&serde_json::json!({"title": "good"}));
    assert_eq!(good.send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn bad_input_is_refused_and_the_service_goes_on() {
    let place = Place::new();
    let demo = Demo::start(&mut place.command()).await;
    // With cookies: what is read at the end must know all that was written before.
    let client = &demo.client;
    let url = &demo.url;
    let json = |method: Method, path: &str, body: &str| {
        let request = client.request(method, format!("{url}{path}"));
        let request = request.header("content-type", "application/json");
        request.body(body.to_owned())
    };
    let post = |body: &str| json(Method::POST, "/notes", body);
    let get = |path: &str| client.get(format!("{url}{path}"));
    // One byte beyond axum's limit: the server reads all of it before it can say no.
    let large = format!("{{\"title\":\"{}\"}}", "x".repeat((2 << 20) + 1 - 12));
    let plain = client.post(format!("{url}/notes")).body("{\"title\":\"a\"}");
    let cases: Vec<(&str, RequestBuilder, u16)> = vec![
        ("body too large", post(&large), 413),
        ("no JSON", post("{\"title\":"), 400),
        ("empty body", post(""), 400),
        ("no UTF-8 escape", post("{\"title\":\"\\ud800\"}"), 400),
        ("another content type", plain, 415),
        ("no title", post("{\"body\":\"b\"}"), 422),
        ("empty title", post("{\"title\":\"\"}"), 422),
        ("blank title", post("{\"title\":\" \\n\"}"), 422),
        ("title of another type", post("{\"title\":7}"), 422),
        ("NUL in the title", post("{\"title\":\"a\\u0000\"}"), 422),
        ("NUL in the body", post("{\"title\":\"a\",\"body\":\"\\u0000\"}"), 422),
        ("an object to import", json(Method::POST, "/notes/import", "{}"), 422),
        ("empty title to import", json(Method::POST, "/notes/import", "[{\"title\":\"\"}]"), 422),
        ("NUL to import", json(Method::POST, "/notes/import", "[{\"title\":\"\\u0000\"}]"), 422),
        ("empty title to put", json(Method::PUT, "/notes/1", "{\"title\":\"\"}"), 422),
        ("id beyond the type", get("/notes/9223372036854775808"), 400),
        ("id that nothing has", get("/notes/9223372036854775807"), 404),
        ("negative id", get("/notes/-1"), 404),
        ("id that is no number", get("/notes/one"), 400),
        ("id with SQL", get("/notes/1;DROP%20TABLE%20notes"), 400),
        ("limit below zero", get("/notes?limit=-1"), 400),
        ("limit too large", get("/notes?limit=65536"), 400),
        ("limit that is no number", get("/notes?limit=all"), 400),
        ("unknown node", get("/notes/count?node=elsewhere"), 404),
        ("node with NUL", get("/notes/count?node=%00"), 404),
        ("unknown path", get("/nowhere"), 404),
        ("unknown method", client.patch(format!("{url}/notes")), 405),
        ("no seconds", get("/sleep"), 400),
        ("seconds below zero", get("/sleep?seconds=-1"), 422),
        ("too many seconds", get("/sleep?seconds=3601"), 422),
        ("seconds that are no number", get("/sleep?seconds=NaN"), 422),
        ("seconds without end", get("/sleep?seconds=inf"), 422),
        ("seconds in words", get("/sleep?seconds=two"), 400),
    ];
    let count = cases.len();
    for (what, request, status) in cases {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{what}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains("INSERT") && !text.contains("SELECT"), "{what}: {text}");
        goes_on(client, url).await;
    }
    // None of it was stored, and no 500 was due to any.
    let answer = get("/notes?limit=1000").send().await.unwrap();
    let notes: Vec<serde_json::Value> = answer.json().await.unwrap();
    assert_eq!(notes.len(), count);
    assert!(notes.iter().all(|note| note["title"] == "good"));
    assert!(!place.stderr().contains("ERROR"), "{}", place.stderr());
}
