//! Extensions are created at `open`, and what cannot be created is a warning.

use flautino::{Engine, EngineConfig, OpenReport};
use flautino_cluster::Node;
use flautino_lab::{Capture, ask, cluster, config, has_extensions};
use futures_util::future::join_all;

const CREATED: &str = "SELECT coalesce(string_agg(extname, ',' ORDER BY extname), '') \
                       FROM pg_extension WHERE extname <> 'plpgsql'";

async fn open(config: EngineConfig) -> OpenReport {
    let engine = Engine::new(config).unwrap();
    let report = engine.open().await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&engine.handle()).await.unwrap();
    assert_eq!(one, 1, "the engine serves");
    engine.close().await;
    report
}

fn with(node: &Node, extensions: &[&str]) -> EngineConfig {
    let mut config = EngineConfig::from_url(&node.url()).unwrap();
    config.extensions = extensions.iter().map(ToString::to_string).collect();
    config
}

#[tokio::test]
async fn extensions_are_created_and_one_that_exists_costs_no_statement() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    let names = ["uuid-ossp", "hstore"];
    if !has_extensions(node, &names).await {
        return;
    }
    let mut config = with(node, &names);
    config.log_queries = true;
    let report = open(config.clone()).await;
    assert!(report.warnings.is_empty(), "{report:?}");
    assert_eq!(ask::<String>(node, CREATED).await, "hstore,uuid-ossp");

    let capture = Capture::start();
    open(config).await;
    let sent = capture.of("flautino::query");
    let creates = sent.iter().filter(|event| event.field("sql").contains("CREATE EXTENSION"));
    assert_eq!(creates.count(), 0);
}

#[tokio::test]
async fn the_default_is_uuid_ossp_as_in_piccolo() {
    let cluster = cluster(0).await;
    if !has_extensions(cluster.primary(), &["uuid-ossp"]).await {
        return;
    }
    let report = open(EngineConfig::from_url(&cluster.primary().url()).unwrap()).await;
    assert!(report.warnings.is_empty(), "{report:?}");
    assert_eq!(ask::<String>(cluster.primary(), CREATED).await, "uuid-ossp");
}

#[tokio::test]
async fn an_extension_that_the_server_does_not_have_is_a_warning_and_the_others_are_created() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    let names = ["no_such_thing", "we\"ird'; DROP TABLE keep; --\\", "hstore"];
    node.execute("CREATE TABLE keep (a int)").await.unwrap();
    let report = open(with(node, &names)).await;
    assert_eq!(report.warnings.len(), 2, "{report:?}");
    assert!(report.warnings[0].contains("no_such_thing"), "{report:?}");
    // Before PostgreSQL 15, it names the file that it does not find.
    let reasons = ["not available", "could not open extension control file"];
    assert!(reasons.iter().any(|it| report.warnings[0].contains(it)), "{report:?}");
    assert_eq!(ask::<String>(node, CREATED).await, "hstore");
    ask::<i64>(node, "SELECT count(*) FROM keep").await;
}

#[tokio::test]
async fn an_extension_that_the_role_may_not_create_is_a_warning_with_the_reason() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    node.execute("CREATE ROLE plain LOGIN").await.unwrap();
    let url = node.url().replace("postgres@", "plain@");
    assert!(url.contains("plain@"), "{url}");
    let mut config = EngineConfig::from_url(&url).unwrap();
    config.extensions = vec!["hstore".to_owned()];
    let capture = Capture::start();
    let report = open(config).await;
    assert_eq!(report.warnings.len(), 1, "{report:?}");
    assert!(report.warnings[0].contains("permission denied"), "{report:?}");
    let logged = capture.warnings();
    assert!(logged.iter().any(|text| text.contains("permission denied")), "{logged:?}");
    assert_eq!(ask::<String>(node, CREATED).await, "");
}

#[tokio::test]
async fn a_replica_as_the_main_node_is_never_written_to_and_the_app_serves() {
    let cluster = cluster(1).await;
    let report = open(with(cluster.replica(0), &["uuid-ossp"])).await;
    let [nothing_is_written, extension] = &report.warnings[..] else { panic!("{report:?}") };
    assert!(nothing_is_written.contains("`main` is a replica"), "{report:?}");
    assert!(extension.contains("recovery") && extension.contains("uuid-ossp"), "{report:?}");
}

#[tokio::test]
async fn extensions_go_to_the_primary_and_with_none_nothing_is_sent() {
    let cluster = cluster(1).await;
    let mut config = config(&cluster, "none");
    config.log_queries = true;
    let capture = Capture::start();
    open(config.clone()).await;
    let about = |event: &flautino_lab::Event| {
        let sql = event.field("sql");
        sql.contains("CREATE EXTENSION") || sql.contains("pg_catalog.pg_extension")
    };
    assert!(!capture.of("flautino::query").iter().any(about));

    config.extensions = vec!["hstore".to_owned()];
    open(config).await;
    let sent = capture.of("flautino::query");
    let nodes: Vec<_> = sent.iter().filter(|event| about(event)).collect();
    assert!(!nodes.is_empty());
    assert!(nodes.iter().all(|event| event.field("node") == "main"), "{nodes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_engines_that_open_at_once_do_not_collide() {
    let cluster = cluster(0).await;
    let node = cluster.primary();
    for round in 0..3 {
        let database = format!("fresh{round}");
        node.execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        let opens = (0..10).map(|_| {
            let mut config = EngineConfig::from_url(&node.url_for(&database)).unwrap();
            config.extensions = ["citext", "hstore", "pg_trgm"].map(str::to_owned).to_vec();
            tokio::spawn(open(config))
        });
        for report in join_all(opens).await {
            let report = report.unwrap();
            assert!(report.warnings.is_empty(), "{report:?}");
        }
    }
}
