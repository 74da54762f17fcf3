//! A volatile function that no parser sees: a replica refuses it, the primary answers, and from
//! then on it goes there at once.

use flautino::router::Reason;
use flautino::{Access, Engine, EngineConfig};
use flautino_cluster::Cluster;
use flautino_lab::settings::frozen;
use flautino_lab::{ask, catch_up, config, node_of};
use futures_util::TryStreamExt;

use crate::common::{MAIN, REPLICAS, cascade, open_reading};

/// `tick` writes; a view, an operator and a policy call it.
const HIDDEN: &str = "
    CREATE TABLE calls (a int);
    CREATE FUNCTION tick(a int) RETURNS int LANGUAGE plpgsql VOLATILE SECURITY DEFINER
        AS 'BEGIN INSERT INTO calls VALUES (a); RETURN a; END';
    CREATE FUNCTION tick(a int, b int) RETURNS int LANGUAGE plpgsql VOLATILE SECURITY DEFINER
        AS 'BEGIN INSERT INTO calls VALUES (a); RETURN a + b; END';
    CREATE VIEW watched AS SELECT tick(40) + 2 AS a;
    CREATE OPERATOR |+| (LEFTARG = int, RIGHTARG = int, FUNCTION = tick);
    CREATE TABLE guarded (a int);
    INSERT INTO guarded VALUES (42);
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY seen ON guarded USING (tick(a) = a);
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app";

/// Where each hides; the text may end in a remark, so that it is new.
const QUERIES: [(&str, &str); 3] = [
    ("a view", "SELECT a FROM watched"),
    ("an operator", "SELECT 40 |+| 2"),
    ("a policy", "SELECT a FROM guarded"),
];

/// A cluster with an ordinary role, for whom policies hold, and a configuration that uses it.
async fn cluster_and_config(name: &str) -> (Cluster, EngineConfig) {
    let cluster = cascade().await;
    cluster.primary().execute("CREATE ROLE app LOGIN").await.unwrap();
    catch_up(&cluster).await;
    let mut config = config(&cluster, name);
    for node in std::iter::once(&mut config.main).chain(config.extra_nodes.values_mut()) {
        node.url = node.url.take().map(|url| url.replace("postgres@", "app@"));
    }
    (cluster, config)
}

async fn hide(cluster: &Cluster) {
    cluster.primary().execute(HIDDEN).await.unwrap();
    catch_up(cluster).await;
}

async fn calls(cluster: &Cluster) -> i64 {
    ask(cluster.primary(), "SELECT count(*) FROM calls").await
}

/// The ways to ask for one number.
const WAYS: [&str; 6] = ["one", "optional", "all", "stream", "values", "execute"];

/// Asks in that way; answers the number, and the nodes and reasons of all attempts.
async fn ask_by(engine: &Engine, way: &str, sql: &str) -> (i32, Vec<(String, Reason)>) {
    let db = engine.handle().recorded();
    let query = || sqlx::query_scalar::<_, i32>(sqlx::AssertSqlSafe(sql.to_owned()));
    let answer = match way {
        "one" => query().fetch_one(&db).await.unwrap(),
        "optional" => query().fetch_optional(&db).await.unwrap().unwrap(),
        "all" => query().fetch_all(&db).await.unwrap()[0],
        "stream" => query().fetch(&db).try_collect::<Vec<_>>().await.unwrap()[0],
        "values" => {
            let sql = format!("SELECT * FROM ({sql}) AS q (a) WHERE $1 = 1");
            let query = sqlx::query_scalar::<_, i32>(sqlx::AssertSqlSafe(sql)).bind(1);
            query.fetch_one(&db).await.unwrap()
        }
        "execute" => {
            let sql = sqlx::AssertSqlSafe(sql.to_owned());
            let done = sqlx::query(sql).execute(&db).await.unwrap();
            i32::try_from(done.rows_affected()).unwrap() * 42
        }
        _ => unreachable!(),
    };
    let timings = db.timings().into_iter();
    (answer, timings.map(|timing| (timing.node.to_string(), timing.reason)).collect())
}

#[tokio::test]
async fn what_was_hidden_after_open_is_answered_at_once_and_goes_to_the_primary_the_next_time() {
    let (cluster, mut config) = cluster_and_config("hidden").await;
    // What is hidden stays so until the catalogue is looked at again.
    frozen(&mut config);
    let engine = open_reading(config, &REPLICAS).await;
    hide(&cluster).await;
    let mut expected_calls = 0;
    for (what, sql) in QUERIES {
        for way in WAYS {
            let sql = format!("{sql} /* {way} */");
            let (answer, attempts) = ask_by(&engine, way, &sql).await;
            assert_eq!(answer, 42, "{what}, {way}");
            let [(first, _), (second, reason)] = &attempts[..] else {
                panic!("{what}, {way}: {attempts:?}");
            };
            assert_ne!(first, MAIN, "{what}, {way}");
            assert_eq!((second.as_str(), *reason), (MAIN, Reason::Rescued), "{what}, {way}");

            let (answer, attempts) = ask_by(&engine, way, &sql).await;
            assert_eq!(answer, 42, "{what}, {way}");
            assert_eq!(attempts, [(MAIN.to_owned(), Reason::Write)], "{what}, {way}");
            // A write is never sent twice.
            expected_calls += 2;
            assert_eq!(calls(&cluster).await, expected_calls, "{what}, {way}");
        }
    }
    engine.close().await;
}

#[tokio::test]
async fn what_is_hidden_at_open_goes_to_the_primary_at_once() {
    let (cluster, config) = cluster_and_config("known").await;
    hide(&cluster).await;
    let engine = open_reading(config, &REPLICAS).await;
    for (number, (what, sql)) in QUERIES.into_iter().enumerate() {
        assert_eq!(engine.access(sql), Access::Write, "{what}");
        let (answer, attempts) = ask_by(&engine, "one", sql).await;
        assert_eq!(answer, 42, "{what}");
        assert_eq!(attempts, [(MAIN.to_owned(), Reason::Write)], "{what}");
        assert_eq!(calls(&cluster).await, i64::try_from(number).unwrap() + 1);
    }
    engine.close().await;
}

#[tokio::test]
async fn a_rescued_write_is_seen_by_the_next_read_of_its_session() {
    let (cluster, mut config) = cluster_and_config("seen").await;
    frozen(&mut config);
    let engine = open_reading(config, &REPLICAS).await;
    hide(&cluster).await;
    for replica in cluster.nodes().skip(1) {
        replica.pause_replay().await.unwrap();
    }
    let db = engine.handle();
    let answer: i32 = sqlx::query_scalar("SELECT a FROM watched").fetch_one(&db).await.unwrap();
    assert_eq!((answer, node_of(&db).as_str()), (42, MAIN));
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM calls").fetch_one(&db).await.unwrap();
    assert_eq!(seen, 1);
    // And by one that has the token.
    let token = db.token().await.unwrap();
    let other = engine.handle();
    other.observe(&token);
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM calls").fetch_one(&other).await.unwrap();
    assert_eq!(seen, 1);
    engine.close().await;
}
