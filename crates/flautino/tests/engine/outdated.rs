//! Statements that were prepared before their tables changed, and what is run again for that.

use flautino_lab::{Lab, ask};
use futures_util::TryStreamExt;
use sqlx::{Executor, SqlStr};

const ALL: &str = "SELECT * FROM t";
const UNION: &str = "(TABLE t) UNION ALL (TABLE t)";

#[tokio::test]
async fn a_text_that_committed_before_it_met_one_is_not_run_again() {
    let Lab { cluster, engine, db, .. } =
        Lab::named("commits").table("t (a int)").one_connection().start().await;
    let text = "PREPARE p AS SELECT * FROM t; ALTER TABLE t ADD COLUMN IF NOT EXISTS x int; \
                INSERT INTO t (a) VALUES (1); COMMIT; EXECUTE p";
    for run in 1..=2_i64 {
        let error = match run {
            1 => sqlx::raw_sql(text).execute(&db).await.unwrap_err(),
            _ => sqlx::raw_sql(text).fetch_many(&db).try_collect::<Vec<_>>().await.unwrap_err(),
        };
        assert!(error.to_string().contains("cached plan"), "{error}");
        assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await, run);
        cluster.primary().execute("ALTER TABLE t DROP COLUMN x").await.unwrap();
    }
    engine.close().await;
}

#[tokio::test]
async fn a_procedure_that_committed_before_it_met_one_is_not_called_again() {
    let Lab { cluster, engine, db, .. } =
        Lab::named("procedure").table("t (a int)").one_connection().start().await;
    let procedure = "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN \
                     EXECUTE 'PREPARE p AS SELECT * FROM t'; \
                     ALTER TABLE t ADD COLUMN IF NOT EXISTS x int; \
                     INSERT INTO t (a) VALUES (1); COMMIT; EXECUTE 'EXECUTE p'; END $$";
    cluster.primary().execute(procedure).await.unwrap();
    let error = sqlx::query("CALL p()").execute(&db).await.unwrap_err();
    assert!(error.to_string().contains("cached plan"), "{error}");
    assert_eq!(ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await, 1);
    engine.close().await;
}

#[tokio::test]
async fn a_single_query_is_run_again_and_described_again() {
    let Lab { cluster, engine, db, .. } =
        Lab::named("again").table("t (a int)").one_connection().start().await;
    for (round, column) in ["b", "c", "d", "e"].into_iter().enumerate() {
        sqlx::query(ALL).execute(&db).await.unwrap();
        sqlx::query(UNION).execute(&db).await.unwrap();
        let sql = format!("ALTER TABLE t ADD COLUMN {column} int");
        cluster.primary().execute(&sql).await.unwrap();
        match round {
            0 => drop(sqlx::query(ALL).execute(&db).await.unwrap()),
            1 => drop(sqlx::query(UNION).execute(&db).await.unwrap()),
            2 => drop(sqlx::query(ALL).fetch(&db).try_next().await.unwrap()),
            _ => {
                let described = (&db).describe(SqlStr::from_static(ALL)).await.unwrap();
                assert_eq!(described.columns().len(), 5);
            }
        }
    }
    engine.close().await;
}
