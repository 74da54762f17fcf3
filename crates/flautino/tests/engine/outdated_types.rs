//! Types of the user's own that were dropped and made anew, or renamed: sqlx remembers their numbers
//! for each connection.

use flautino::Handle;
use flautino_cluster::Node;
use flautino_lab::Lab;
use futures_util::future::join_all;
use sqlx::{Executor, Postgres};

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Happy,
    Sad,
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "pair")]
struct Pair {
    number: i32,
    mood: Mood,
}

#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "positive", transparent)]
struct Positive(i32);

const MAKE: &str = "
    CREATE TYPE mood AS ENUM ('happy', 'sad');
    CREATE TYPE pair AS (number int, mood mood);
    CREATE DOMAIN positive AS int CHECK (value > 0);
    CREATE TABLE t (m mood, p pair, d positive);
    INSERT INTO t VALUES ('sad', '(7,happy)', 3)";
const CONNECTIONS: usize = 3;

const USES: [&str; 9] = [
    "enum",
    "enum written",
    "array",
    "composite",
    "composite written",
    "composites",
    "domain",
    "values",
    "read",
];

/// Binds or reads one of the types.
async fn use_by<'c>(
    db: impl Executor<'c, Database = Postgres>,
    by: &str,
) -> Result<(), sqlx::Error> {
    let pair = Pair { number: 7, mood: Mood::Happy };
    let found: i64 = match by {
        "enum" => {
            let sql = "SELECT count(*) FROM t WHERE m = $1";
            sqlx::query_scalar(sql).bind(Mood::Sad).fetch_one(db).await?
        }
        "enum written" => {
            let sql = "UPDATE t SET m = $1";
            i64::try_from(sqlx::query(sql).bind(Mood::Sad).execute(db).await?.rows_affected())
                .unwrap()
        }
        "array" => {
            let sql = "SELECT count(*) FROM t WHERE m = ANY($1)";
            sqlx::query_scalar(sql).bind(vec![Mood::Sad, Mood::Happy]).fetch_one(db).await?
        }
        "composite" => {
            let sql = "SELECT count(*) FROM t WHERE p = $1";
            sqlx::query_scalar(sql).bind(pair).fetch_one(db).await?
        }
        "composite written" => {
            let sql = "UPDATE t SET p = $1";
            i64::try_from(sqlx::query(sql).bind(pair).execute(db).await?.rows_affected()).unwrap()
        }
        "composites" => {
            let sql = "SELECT count(*) FROM t WHERE p = ANY($1)";
            sqlx::query_scalar(sql).bind(vec![pair]).fetch_one(db).await?
        }
        "domain" => {
            let sql = "SELECT count(*) FROM t WHERE d = $1";
            sqlx::query_scalar(sql).bind(Positive(3)).fetch_one(db).await?
        }
        "values" => {
            let sql = "SELECT $1, $2, $3";
            let query = sqlx::query_as::<_, (Mood, Pair, Positive)>(sql);
            let query = query.bind(Mood::Sad).bind(pair).bind(Positive(3));
            assert_eq!(query.fetch_one(db).await?, (Mood::Sad, pair, Positive(3)));
            1
        }
        _ => {
            let sql = "SELECT m, p, d FROM t";
            let row = sqlx::query_as::<_, (Mood, Pair, Positive)>(sql).fetch_one(db).await?;
            assert_eq!(row, (Mood::Sad, pair, Positive(3)));
            1
        }
    };
    assert_eq!(found, 1, "{by}");
    Ok(())
}

/// All connections of the pool know all types.
async fn use_everywhere(db: &Handle) {
    let mut leases = join_all((0..CONNECTIONS).map(|_| db.acquire())).await;
    for lease in &mut leases {
        for by in USES {
            use_by(lease.as_mut().unwrap(), by).await.unwrap();
        }
    }
}

async fn start(name: &str) -> Lab {
    let max = u32::try_from(CONNECTIONS).unwrap();
    Lab::named(name).sql(MAKE).connections(max).always_warm().start().await
}

/// How types change under connections that know them.
const CHANGES: [(&str, &str); 5] = [
    ("made anew", "DROP TABLE t; DROP DOMAIN positive; DROP TYPE pair; DROP TYPE mood;"),
    (
        "another has the name",
        "ALTER TABLE t RENAME TO t_old; ALTER TYPE pair RENAME TO pair_old;
         ALTER TYPE mood RENAME TO mood_old; ALTER DOMAIN positive RENAME TO positive_old;",
    ),
    (
        "another has the name, with other labels",
        "ALTER TABLE t RENAME TO t_o; ALTER TYPE pair RENAME TO pair_o;
         ALTER TYPE mood RENAME TO mood_o; ALTER DOMAIN positive RENAME TO positive_o;
         ALTER TYPE mood_o RENAME VALUE 'sad' TO 'glum';
         ALTER TYPE mood_o RENAME VALUE 'happy' TO 'glad';",
    ),
    (
        "in another schema",
        "ALTER TABLE t SET SCHEMA other; ALTER TYPE pair SET SCHEMA other;
         ALTER TYPE mood SET SCHEMA other; ALTER DOMAIN positive SET SCHEMA other;",
    ),
    ("made anew once more", "DROP TABLE t; DROP DOMAIN positive; DROP TYPE pair; DROP TYPE mood;"),
];

async fn change(node: &Node, change: &str) {
    node.execute(change).await.unwrap();
    node.execute(MAKE).await.unwrap();
}

#[tokio::test]
async fn a_handle_does_not_notice() {
    let Lab { cluster, engine, db, .. } = start("types").await;
    cluster.primary().execute("CREATE SCHEMA other").await.unwrap();
    let mut failed = Vec::new();
    for (how, sql) in CHANGES {
        for by in USES {
            use_everywhere(&db).await;
            change(cluster.primary(), sql).await;
            for _ in 0..=CONNECTIONS {
                if let Err(error) = use_by(&db, by).await {
                    failed.push(format!("{how}, {by}: {error:?}"));
                }
            }
            if how.starts_with("another") || how.starts_with("in another") {
                // Away with what was renamed, so that the names are free.
                cluster.primary().execute("DROP SCHEMA other CASCADE; CREATE SCHEMA other; \
                    DROP TABLE IF EXISTS t_old, t_o; DROP TYPE IF EXISTS pair_old, pair_o; \
                    DROP TYPE IF EXISTS mood_old, mood_o; DROP DOMAIN IF EXISTS positive_old, positive_o").await.unwrap();
            }
        }
    }
    assert!(failed.is_empty(), "{}: {failed:#?}", failed.len());
    engine.close().await;
}

#[tokio::test]
async fn a_lease_does_not_notice_and_a_transaction_fails_once() {
    let Lab { cluster, engine, db, .. } = start("types_kept").await;
    for by in USES {
        use_everywhere(&db).await;
        let mut lease = db.acquire().await.unwrap();
        change(cluster.primary(), CHANGES[0].1).await;
        for _ in 0..2 {
            let used = use_by(&mut lease, by).await;
            used.unwrap_or_else(|error| panic!("{by}: {error:?}"));
        }
        drop(lease);
        let mut failures = 0;
        for _ in 0..2 * CONNECTIONS {
            let mut tx = db.begin().await.unwrap();
            match use_by(&mut tx, by).await {
                Ok(()) => tx.commit().await.unwrap(),
                Err(_) => failures += 1,
            }
        }
        assert!(failures <= CONNECTIONS, "{by}: {failures}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_write_is_done_once() {
    let Lab { cluster, engine, db, .. } = start("types_once").await;
    let insert = async || {
        let sql = "INSERT INTO t (m) SELECT $1 FROM generate_series(1, 2)";
        sqlx::query(sql).bind(Mood::Happy).execute(&db).await
    };
    insert().await.unwrap();
    change(cluster.primary(), CHANGES[0].1).await;
    assert_eq!(insert().await.unwrap().rows_affected(), 2);
    let count = flautino_lab::ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await;
    assert_eq!(count, 3);
    engine.close().await;
}

#[tokio::test]
async fn a_transaction_that_may_be_tried_again_does_not_notice_and_neither_does_a_call() {
    let Lab { cluster, engine, db, .. } = start("types_again").await;
    let procedure = "CREATE PROCEDURE note(moods text) LANGUAGE sql AS \
                     'UPDATE t SET m = moods::mood'";
    cluster.primary().execute(procedure).await.unwrap();
    for _ in 0..3 {
        use_everywhere(&db).await;
        let call =
            async || sqlx::query("CALL note($1::mood::text)").bind(Mood::Sad).execute(&db).await;
        for _ in 0..CONNECTIONS {
            call().await.unwrap();
        }
        change(cluster.primary(), CHANGES[0].1).await;
        let options = flautino::TransactionOptions { retries: 1, ..Default::default() };
        for by in ["enum", "array", "composite", "read"] {
            let work = async move |tx: &mut flautino::Transaction| use_by(&mut *tx, by).await;
            db.transaction_with(options.clone(), work).await.unwrap();
        }
        call().await.unwrap();
    }
    engine.close().await;
}

/// Of a type that is named with its schema.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::Type)]
#[sqlx(type_name = "other.mood", rename_all = "lowercase")]
enum OtherMood {
    Calm,
}

#[tokio::test]
async fn neither_does_who_changes_the_search_path_between_types_of_one_name() {
    let Lab { cluster, engine, db, .. } = start("types_path").await;
    let other = "CREATE SCHEMA other; CREATE TYPE other.mood AS ENUM ('happy', 'sad', 'calm'); \
                 CREATE TABLE other.t (m other.mood)";
    cluster.primary().execute(other).await.unwrap();
    let mut lease = db.acquire().await.unwrap();
    for round in 0..4 {
        for schema in ["public", "other"] {
            let path = sqlx::AssertSqlSafe(format!("SET search_path = {schema}"));
            sqlx::query(path).execute(&mut lease).await.unwrap();
            let insert = sqlx::query("INSERT INTO t (m) VALUES ($1)").bind(Mood::Sad);
            let inserted = insert.execute(&mut lease).await;
            inserted.unwrap_or_else(|error| panic!("{round}, {schema}: {error:?}"));
            let sql = "SELECT count(*) FROM other.t WHERE m = $1";
            let calm: i64 =
                sqlx::query_scalar(sql).bind(OtherMood::Calm).fetch_one(&mut lease).await.unwrap();
            assert_eq!(calm, 0);
        }
    }
    drop(lease);
    engine.close().await;
}

#[tokio::test]
async fn a_mistake_of_the_app_s_own_stays_an_error_and_is_told_as_it_is() {
    let Lab { cluster: _cluster, engine, db, .. } = start("types_wrong").await;
    for _ in 0..3 {
        let wrong = sqlx::query("UPDATE t SET p = $1").bind(Mood::Sad).execute(&db).await;
        assert_eq!(flautino_lab::sqlstate(&wrong.unwrap_err()), "42804");
        let mut lease = db.acquire().await.unwrap();
        let wrong = sqlx::query("SELECT $1 + 1").bind(Mood::Sad).fetch_one(&mut lease).await;
        assert_eq!(flautino_lab::sqlstate(&wrong.map(drop).unwrap_err()), "42883");
        // In a transaction that the app began by itself, too.
        sqlx::raw_sql("BEGIN").execute(&mut lease).await.unwrap();
        let wrong = sqlx::query("UPDATE t SET p = $1").bind(Mood::Sad).execute(&mut lease).await;
        assert_eq!(flautino_lab::sqlstate(&wrong.unwrap_err()), "42804");
        sqlx::raw_sql("ROLLBACK").execute(&mut lease).await.unwrap();
    }
    engine.close().await;
}

#[tokio::test]
async fn nor_does_it_matter_where_no_statement_is_kept_prepared() {
    let Lab { cluster, engine, db, .. } = Lab::named("types_unprepared")
        .sql(MAKE)
        .connections(u32::try_from(CONNECTIONS).unwrap())
        .config(|config| config.main.statement_cache_capacity = Some(0))
        .start()
        .await;
    for by in USES {
        use_everywhere(&db).await;
        change(cluster.primary(), CHANGES[0].1).await;
        let mut lease = db.acquire().await.unwrap();
        let used = use_by(&mut lease, by).await;
        used.unwrap_or_else(|error| panic!("{by}: {error:?}"));
        drop(lease);
        for _ in 0..=CONNECTIONS {
            let used = use_by(&db, by).await;
            used.unwrap_or_else(|error| panic!("{by}: {error:?}"));
        }
    }
    engine.close().await;
}
