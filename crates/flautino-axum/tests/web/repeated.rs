//! A request that sends one statement again and again.

use axum::Router;
use axum::routing::get;
use flautino_axum::{Db, DbError, EngineLayer, Tx};
use flautino_lab::{App, Capture, Lab};

async fn three(db: Db) -> Result<(), DbError> {
    for number in 0..3 {
        let _: i32 = sqlx::query_scalar("SELECT $1 + 40").bind(number).fetch_one(&db).await?;
    }
    Ok(())
}

async fn four(mut tx: Tx) -> Result<(), DbError> {
    for number in 0..4 {
        let _: i32 = sqlx::query_scalar("SELECT $1 + 40").bind(number).fetch_one(&mut tx).await?;
    }
    Ok(())
}

#[tokio::test]
async fn is_warned_of_once_with_its_route() {
    for (limit, warns) in [(3, true), (0, false)] {
        let lab = Lab::named("repeated").config(|config| config.log_repeated = limit).start().await;
        let app = Router::new()
            .route("/three", get(three))
            .route("/four/{id}", get(four))
            .layer(EngineLayer::new(lab.engine.clone()));
        let app = App::start(app, lab.engine).await;
        let log = Capture::start();
        for path in ["three", "three", "four/1"] {
            reqwest::get(format!("{}/{path}", app.url)).await.unwrap().error_for_status().unwrap();
        }
        let warnings = log.of("flautino::repeated");
        assert_eq!(warnings.len(), usize::from(warns), "{warnings:?}");
        if let [warning] = &warnings[..] {
            assert_eq!((warning.field("route"), warning.field("count")), ("/four/{id}", "4"));
            assert_eq!(warning.field("sql"), "SELECT $1 + ?");
        }
        app.stop().await;
    }
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn is_counted_by_its_route_and_never_by_its_path() {
    let builder = metrics_exporter_prometheus::PrometheusBuilder::new();
    let recorder = builder.with_recommended_naming(true).install_recorder().unwrap();
    let lab = Lab::named("repeats").config(|config| config.log_repeated = 3).start().await;
    let layer = || EngineLayer::new(lab.engine.clone());
    let routed = Router::new().route("/four/{id}", get(four)).layer(layer());
    // Here the layer is outside the router, and knows no route.
    let app = Router::new().merge(routed).fallback_service(tower::Layer::layer(
        &layer(),
        Router::new().route("/outside/{id}", get(four)),
    ));
    let app = App::start(app, lab.engine).await;
    for path in ["four/1", "four/2", "outside/3"] {
        reqwest::get(format!("{}/{path}", app.url)).await.unwrap().error_for_status().unwrap();
    }
    let page = recorder.render();
    let of = |route: &str| {
        let series = format!(
            "flautino_request_repeats_total{{http_request_method=\"GET\",http_route=\"{route}\"}} "
        );
        page.lines().find_map(|line| line.strip_prefix(&*series)?.parse::<u64>().ok())
    };
    assert_eq!((of("/four/{id}"), of("")), (Some(2), Some(1)), "{page}");
    app.stop().await;
}
