//! The example's app on a real cluster, called by tonic's client and by a plain HTTP one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use flautino_lab::{App, Lab, LabBuilder};
use grpc::{NotesClient, app};
use reqwest::Client;
use sqlx::Connection;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response};

const TOKEN: &str = "flautino-token";

fn lab() -> LabBuilder<'static> {
    Lab::named("grpc").table("notes (id bigserial PRIMARY KEY, title text UNIQUE)")
}

async fn start(lab: &Lab) -> (App, NotesClient<Channel>) {
    let app = App::start(app(&lab.engine), lab.engine.clone()).await;
    let client = NotesClient::connect(app.url.clone()).await.unwrap();
    (app, client)
}

/// The node that served a call.
fn node<T>(response: &Response<T>) -> &str {
    let timing = response.metadata().get("server-timing").unwrap().to_str().unwrap();
    timing.split_once("desc=\"").unwrap().1.split_once(' ').unwrap().0
}

#[test]
fn the_example_reads_its_own_write_first_from_the_primary_and_then_from_the_replica() {
    let run = Command::new(env!("CARGO_BIN_EXE_grpc")).output().unwrap();
    let told = String::from_utf8(run.stdout).unwrap();
    let lines: Vec<_> = told.lines().collect();
    assert!(run.status.success(), "{told}{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(lines.len(), 2, "{told}");
    assert!(lines[0].starts_with("the replica is paused: \"flute\", "), "{told}");
    assert!(lines[0].contains("desc=\"main "), "{told}");
    assert!(lines[1].starts_with("it has caught up: \"flute\", "), "{told}");
    assert!(lines[1].contains("desc=\"read_replica_1 "), "{told}");
}

#[tokio::test]
async fn by_its_token_a_client_sees_its_write_over_grpc_and_http_and_without_it_the_past() {
    let lab = lab().replicas(1).frozen().start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    let (app, mut client) = start(&lab).await;
    lab.cluster.replica(0).pause_replay().await.unwrap();
    let added = client.add("flute".to_owned()).await.unwrap();
    assert_eq!(node(&added), "main");
    let token = added.metadata().get(TOKEN).unwrap().clone();
    let id = added.into_inner().id;

    let mut request = Request::new(id);
    request.metadata_mut().insert(TOKEN, token.clone());
    let note = client.get(request).await.unwrap();
    assert_eq!((node(&note), note.get_ref().title.as_str()), ("main", "flute"));
    // The replica lacks the note, so this shows that the token is what counts.
    assert_eq!(client.get(id).await.unwrap_err().code(), Code::NotFound);

    let count = format!("{}/count", app.url);
    let told = Client::new().get(&count).header(TOKEN, token.to_str().unwrap());
    assert_eq!(told.send().await.unwrap().text().await.unwrap(), "1");
    assert_eq!(reqwest::get(&count).await.unwrap().text().await.unwrap(), "0");
    drop(client);
    app.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_404_over_http_and_unimplemented_over_grpc() {
    let lab = lab().start().await;
    let (app, client) = start(&lab).await;
    let absent = reqwest::get(format!("{}/absent", app.url)).await.unwrap();
    assert_eq!(absent.status(), 404);
    let mut grpc = tonic::client::Grpc::new(Endpoint::new(app.url.clone()).unwrap().connect_lazy());
    for path in ["/notes.Notes/Absent", "/absent.Service/Get"] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<i64, i64>::default();
        let call = grpc.unary(Request::new(1), PathAndQuery::from_static(path), codec);
        assert_eq!(call.await.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
    drop((client, grpc));
    app.stop().await;
}

#[tokio::test]
async fn an_error_has_the_code_that_its_cause_deserves_and_tells_nothing_of_the_database() {
    let lab = lab().start().await;
    let (app, mut client) = start(&lab).await;
    assert_eq!(client.get(7).await.unwrap_err().code(), Code::NotFound);
    client.add("flute".to_owned()).await.unwrap();
    let twice = client.add("flute".to_owned()).await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);

    lab.primary().execute("DROP TABLE notes").await.unwrap();
    let broken = client.get(7).await.unwrap_err();
    assert_eq!((broken.code(), broken.message()), (Code::Internal, "the call could not be served"));

    lab.engine.close().await;
    assert_eq!(client.get(7).await.unwrap_err().code(), Code::Unavailable);
    drop(client);
    app.stop().await;
}

#[tokio::test]
async fn a_call_ends_when_its_client_does_not_wait_any_longer() {
    let lab = lab().start().await;
    let (app, client) = start(&lab).await;
    let mut lock = lab.primary().connect().await.unwrap();
    let mut lock = lock.begin().await.unwrap();
    sqlx::query("LOCK TABLE notes").execute(&mut *lock).await.unwrap();
    // tonic's client would end the call by itself at the same moment; this one waits for the server.
    let http2 = Client::builder().http2_prior_knowledge().build().unwrap();
    let id_of_7 = [0, 0, 0, 0, 2, 1 << 3, 7];
    let call = http2.post(format!("{}/notes.Notes/Get", app.url)).body(id_of_7.to_vec());
    let call = call.header("content-type", "application/grpc").header("grpc-timeout", "3S");
    let answer = call.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
    lock.rollback().await.unwrap();
    drop((client, http2));
    app.stop().await;
}
