//! A type that a replica does not have yet: what uses it goes to the primary, as what uses a new table.

use flautino::router::Reason;
use flautino_lab::{Lab, catch_up, node_of, pause_replay, pid, resume_replay};
use sqlx::{Executor, Postgres};

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Happy,
    Calm,
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "pair")]
struct Pair {
    number: i32,
    mood: Mood,
}

async fn use_by<'c>(
    db: impl Executor<'c, Database = Postgres>,
    by: &str,
) -> Result<(), sqlx::Error> {
    let pair = Pair { number: 7, mood: Mood::Happy };
    match by {
        "enum" => sqlx::query("SELECT $1").bind(Mood::Happy).execute(db).await.map(drop),
        "array" => sqlx::query("SELECT 1, $1").bind(vec![Mood::Happy]).execute(db).await.map(drop),
        "composite" => sqlx::query("SELECT 2, $1").bind(pair).execute(db).await.map(drop),
        "several" => {
            let query = sqlx::query("SELECT $1, $2, $3").bind(1).bind(pair).bind(vec![pair]);
            query.execute(db).await.map(drop)
        }
        _ => sqlx::query("SELECT 3, $1").bind(Mood::Calm).execute(db).await.map(drop),
    }
}

async fn start(name: &str) -> Lab {
    let lab = Lab::named(name).replicas(1).one_connection().always_warm().frozen().start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    lab
}

#[tokio::test]
async fn a_value_of_a_new_type_goes_to_the_primary_until_the_replica_has_it() {
    let Lab { cluster, engine, db, .. } = start("new_types").await;
    let replica = db.node("read_replica_1").unwrap();
    let before = pid(&replica).await;
    pause_replay(&cluster).await;
    cluster
        .primary()
        .execute("CREATE TYPE mood AS ENUM ('happy'); CREATE TYPE pair AS (number int, mood mood)")
        .await
        .unwrap();
    for by in ["enum", "array", "composite", "several"] {
        let db = engine.handle().recorded();
        use_by(&db, by).await.unwrap_or_else(|error| panic!("{by}: {error}"));
        assert_eq!(node_of(&db), "main", "{by}");
        let reasons: Vec<_> = db.timings().iter().map(|timing| timing.reason).collect();
        assert_eq!(reasons.last(), Some(&Reason::Rescued), "{by}: {reasons:?}");
        // A node that is asked for by its name answers for itself.
        use_by(&replica, by).await.unwrap_err();
    }
    assert_eq!(pid(&replica).await, before);
    resume_replay(&cluster).await;
    catch_up(&cluster).await;
    for by in ["enum", "array", "composite", "several"] {
        let db = engine.handle();
        use_by(&db, by).await.unwrap();
        assert_eq!(node_of(&db), "read_replica_1", "{by}");
    }
    engine.close().await;
}

#[tokio::test]
async fn so_does_a_new_label() {
    let Lab { cluster, engine, .. } = start("new_labels").await;
    let primary = cluster.primary();
    primary.execute("CREATE TYPE mood AS ENUM ('happy')").await.unwrap();
    catch_up(&cluster).await;
    use_by(&engine.handle(), "enum").await.unwrap();
    pause_replay(&cluster).await;
    primary.execute("ALTER TYPE mood ADD VALUE 'calm'").await.unwrap();
    let db = engine.handle();
    use_by(&db, "label").await.unwrap();
    assert_eq!(node_of(&db), "main");
    resume_replay(&cluster).await;
    catch_up(&cluster).await;
    use_by(&engine.handle(), "label").await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn and_one_that_was_made_anew_there_is_prepared_anew_on_the_replica() {
    let Lab { cluster, engine, .. } = start("anew_types").await;
    let primary = cluster.primary();
    let make = "CREATE TYPE mood AS ENUM ('happy'); CREATE TYPE pair AS (number int, mood mood)";
    primary.execute(make).await.unwrap();
    catch_up(&cluster).await;
    for round in 0..3 {
        for by in ["enum", "array", "composite", "several"] {
            for _ in 0..2 {
                let db = engine.handle();
                use_by(&db, by).await.unwrap_or_else(|error| panic!("{round}, {by}: {error}"));
                assert_eq!(node_of(&db), "read_replica_1", "{round}, {by}");
                use_by(&db.primary(), by).await.unwrap();
            }
        }
        let sql = format!("DROP TYPE pair; DROP TYPE mood; {make}");
        primary.execute(&sql).await.unwrap();
        catch_up(&cluster).await;
    }
    engine.close().await;
}
