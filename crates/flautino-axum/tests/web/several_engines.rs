//! Several engines in one app, told apart by types.

use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use flautino::Engine;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_lab::{App, Lab, ask, wait_until};
use http::{HeaderName, StatusCode};

struct Reports;

async fn names(db: Db, reports: Db<Reports>) -> Result<String, DbError> {
    let sql = "SELECT name FROM who";
    let plain: String = sqlx::query_scalar(sql).fetch_one(&db).await?;
    let named: String = sqlx::query_scalar(sql).fetch_one(&reports).await?;
    Ok(format!("{plain} {named}"))
}

async fn write_both(mut tx: Tx, mut reports: Tx<Reports>) -> Result<StatusCode, DbError> {
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await?;
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut reports).await?;
    Ok(StatusCode::CREATED)
}

async fn fail_both(mut tx: Tx, mut reports: Tx<Reports>) -> Result<StatusCode, DbError> {
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut tx).await?;
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut reports).await?;
    Ok(StatusCode::CONFLICT)
}

async fn write_report(reports: Db<Reports>) -> Result<(), DbError> {
    sqlx::query("INSERT INTO t VALUES (3)").execute(&reports).await?;
    Ok(())
}

async fn read(db: Db) -> Result<(), DbError> {
    sqlx::query("SELECT n FROM t").execute(&db).await?;
    Ok(())
}

async fn read_report(reports: Db<Reports>) -> Result<(), DbError> {
    sqlx::query("SELECT n FROM t").execute(&reports).await?;
    Ok(())
}

async fn lab(name: &str) -> Lab {
    let who = format!("CREATE TABLE who AS SELECT '{name}' AS name");
    let lab = Lab::named(name).replicas(1).table("t (n int)").sql(&who);
    lab.patient_probes().start_closed().await
}

fn app(engine: &Engine, reports: &Engine) -> Router {
    Router::new()
        .route("/names", get(names))
        .route("/both", post(write_both).delete(fail_both))
        .route("/report", post(write_report).get(read_report))
        .route("/plain", get(read))
        .layer(EngineLayer::new(engine.clone()).server_timing(true))
        .layer(EngineLayer::new(reports.clone()).named::<Reports>().server_timing(true))
}

fn names_of_cookies(answer: &reqwest::Response) -> Vec<String> {
    let cookies = answer.headers().get_all("set-cookie").iter();
    let name = |cookie: &str| cookie.split('=').next().unwrap().to_owned();
    cookies.map(|cookie| name(cookie.to_str().unwrap())).collect()
}

#[tokio::test]
async fn each_has_its_own_handle_transaction_and_tokens_and_serve_opens_and_closes_all() {
    let (plain, named) = (lab("plain").await, lab("named").await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve =
        flautino_axum::serve(listener, app(&plain.engine, &named.engine), plain.engine.clone())
            .with_engine(named.engine.clone())
            .with_shutdown(async { drop(stopped.await) });
    let served = tokio::spawn(serve.into_future());
    wait_until("both are open", async || plain.engine.is_ready() && named.engine.is_ready()).await;
    plain.until_served_by(&["read_replica_1"]).await;
    named.until_served_by(&["read_replica_1"]).await;

    let client = reqwest::Client::builder().build().unwrap();
    let text = client.get(format!("{url}/names")).send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "plain named");

    let answer = client.post(format!("{url}/both")).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert!(answer.headers().contains_key("flautino-token"), "{answer:?}");
    assert!(answer.headers().contains_key("reports-flautino-token"), "{answer:?}");
    assert_eq!(client.delete(format!("{url}/both")).send().await.unwrap().status(), 409);
    for lab in [&plain, &named] {
        let rows: Vec<i32> =
            sqlx::query_scalar("SELECT n FROM t").fetch_all(&lab.db.primary()).await.unwrap();
        assert_eq!(rows, [1]);
    }

    // A write to the one says nothing of the other.
    let answer = client.post(format!("{url}/report")).send().await.unwrap();
    let cookies = names_of_cookies(&answer);
    assert!(cookies.iter().all(|name| name.starts_with("reports_flautino_token")), "{cookies:?}");
    let token = answer.headers()["reports-flautino-token"].clone();
    flautino_lab::pause_replay(&named.cluster).await;
    let header = HeaderName::from_static("reports-flautino-token");
    let get = async |path: &str| {
        let request = client.get(format!("{url}/{path}")).header(header.clone(), token.clone());
        let answer = request.send().await.unwrap();
        answer.headers()["server-timing"].to_str().unwrap().to_owned()
    };
    assert!(get("plain").await.contains("read_replica_1"));
    flautino_lab::resume_replay(&named.cluster).await;

    stop.send(()).unwrap();
    let report = served.await.unwrap().unwrap();
    assert!(report.close.was_open);
    assert_eq!(report.others.len(), 1);
    assert!(report.others[0].was_open);
    for lab in [plain, named] {
        wait_until("its sessions are gone", async || {
            let sql = "SELECT count(*) FROM pg_stat_activity \
                       WHERE application_name IN ('plain', 'named')";
            ask::<i64>(lab.primary(), sql).await == 0
        })
        .await;
    }
}

#[tokio::test]
async fn if_one_cannot_be_opened_nothing_is_served_and_the_others_are_closed() {
    let (plain, named) = (lab("plain").await, lab("named").await);
    let mut config = named.config.clone();
    config.startup_timeout = Duration::from_secs(1);
    named.primary().kill().await.unwrap();
    named.cluster.replica(0).kill().await.unwrap();
    let down = Engine::new(config).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = app(&plain.engine, &down);
    let serve = flautino_axum::serve(listener, app, plain.engine.clone()).with_engine(down);
    let error = serve.await.unwrap_err();
    assert!(matches!(error, flautino_axum::ServeError::Open(_)), "{error}");
    assert!(!plain.engine.is_ready());
}

#[tokio::test]
async fn a_missing_one_is_named() {
    let plain = Lab::named("plain").start_closed().await;
    let app = Router::new()
        .route("/", get(async |_: Db<Reports>| ()))
        .layer(EngineLayer::new(plain.engine.clone()));
    let app = App::start(app, plain.engine).await;
    let answer = reqwest::get(&app.url).await.unwrap();
    assert_eq!(answer.status(), 500);
    let text = answer.text().await.unwrap();
    assert!(text.contains("`Reports`") && text.contains("named::<Reports>()"), "{text}");
    app.stop().await;
}
