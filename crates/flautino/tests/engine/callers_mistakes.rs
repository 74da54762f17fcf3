//! What sqlx refuses before it sends anything says nothing about the server: no connection is closed,
//! no node is suspected, and nothing is tried elsewhere.

use flautino::{EngineStatus, Handle};
use flautino_lab::{Lab, pid};
use futures_util::TryStreamExt;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Executor, Postgres, QueryBuilder, SqlStr, Type};

/// A value of a type that no server has.
struct Unknown;

impl Type<Postgres> for Unknown {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("no_such_type")
    }
}

impl Encode<'_, Postgres> for Unknown {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::No)
    }
}

/// A value that cannot be encoded.
struct Broken;

impl Type<Postgres> for Broken {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("int4")
    }
}

impl Encode<'_, Postgres> for Broken {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Err("broken".into())
    }
}

const MISTAKES: [&str; 11] = [
    "70,000 values",
    "70,000 values in a stream",
    "an unknown type",
    "an unknown type in a stream",
    "an unknown type of an array",
    "prepared with an unknown type",
    "a value that cannot be encoded",
    "a type that sqlx cannot read",
    "COPY as a query",
    "COPY as a text",
    "COPY in a stream",
];

async fn make<'c>(
    db: impl Executor<'c, Database = Postgres>,
    mistake: &str,
) -> Result<(), sqlx::Error> {
    let many = || {
        let mut builder = QueryBuilder::new("SELECT 1 WHERE 1 IN (");
        let mut values = builder.separated(", ");
        for n in 0..70_000_i32 {
            values.push_bind(n);
        }
        builder.push(")");
        builder
    };
    match mistake {
        "70,000 values" => many().build().execute(db).await.map(drop),
        "70,000 values in a stream" => many().build().fetch(db).try_next().await.map(drop),
        "an unknown type" => sqlx::query("SELECT $1").bind(Unknown).execute(db).await.map(drop),
        "an unknown type in a stream" => {
            sqlx::query("SELECT 1, $1").bind(Unknown).fetch(db).try_next().await.map(drop)
        }
        "an unknown type of an array" => {
            sqlx::query("SELECT 2, $1").bind(Unknowns).execute(db).await.map(drop)
        }
        "prepared with an unknown type" => {
            let types = [PgTypeInfo::with_name("no_such_type")];
            db.prepare_with(SqlStr::from_static("SELECT 3, $1"), &types).await.map(drop)
        }
        "a value that cannot be encoded" => {
            sqlx::query("SELECT 4, $1").bind(Broken).execute(db).await.map(drop)
        }
        "COPY as a query" => sqlx::query("COPY (SELECT 1) TO STDOUT").execute(db).await.map(drop),
        "COPY as a text" => sqlx::raw_sql("SELECT 1; copy pg_temp.t (a) from /* */ stdin")
            .execute(db)
            .await
            .map(drop),
        "COPY in a stream" => {
            sqlx::raw_sql("COPY pg_class TO STDOUT").fetch(db).try_next().await.map(drop)
        }
        // sqlx does not know the category of the type.
        _ => sqlx::query("SELECT '1'::odd").execute(db).await.map(drop),
    }
}

/// An array of a type that no server has.
struct Unknowns;

impl Type<Postgres> for Unknowns {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("no_such_type[]")
    }
}

impl Encode<'_, Postgres> for Unknowns {
    fn encode_by_ref(&self, _: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(IsNull::No)
    }
}

/// A type of a category that PostgreSQL does not have by itself.
const ODD: &str = "CREATE TYPE odd;
    CREATE FUNCTION odd_in(cstring) RETURNS odd LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
    CREATE FUNCTION odd_out(odd) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
    CREATE TYPE odd (INPUT = odd_in, OUTPUT = odd_out, LIKE = int4, CATEGORY = 'o')";

async fn start(name: &str) -> Lab {
    let lab =
        Lab::named(name).replicas(1).sql(ODD).one_connection().always_warm().frozen().start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    lab
}

/// The processes behind the connections of both nodes.
async fn pids(db: &Handle) -> [i32; 2] {
    [pid(&db.primary()).await, pid(&db.node("read_replica_1").unwrap()).await]
}

fn probes(status: &EngineStatus) -> Vec<u64> {
    status.nodes.iter().map(|node| node.probes).collect()
}

#[tokio::test]
async fn through_a_handle_they_cost_no_connection_and_no_node_is_suspected() {
    let Lab { cluster: _cluster, engine, db, .. } = start("mistakes").await;
    let (before, probed) = (pids(&db).await, probes(&engine.status()));
    for mistake in MISTAKES {
        for db in [&engine.handle(), &db.primary(), &db.node("read_replica_1").unwrap()] {
            let error = make(db, mistake).await.unwrap_err();
            assert!(error.as_database_error().is_none(), "{mistake}: {error:?}");
            if mistake.starts_with("70") {
                assert!(error.to_string().contains("70000"), "{error}");
                assert!(error.to_string().contains("65535"), "{error}");
            }
        }
        assert_eq!(pids(&db).await, before, "{mistake}");
    }
    assert_eq!(probes(&engine.status()), probed);
    engine.close().await;
}

#[tokio::test]
async fn a_lease_and_a_transaction_go_on_after_them() {
    let Lab { cluster, engine, db, .. } = start("go_on").await;
    cluster.primary().execute("CREATE TABLE t (a int)").await.unwrap();
    let before = pid(&db.primary()).await;
    for mistake in MISTAKES {
        let mut lease = db.acquire().await.unwrap();
        make(&mut lease, mistake).await.unwrap_err();
        sqlx::query("SELECT 1").execute(&mut lease).await.unwrap();
        drop(lease);
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut tx).await.unwrap();
        make(&mut tx, mistake).await.unwrap_err();
        sqlx::query("INSERT INTO t VALUES (2)").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(pid(&db.primary()).await, before, "{mistake}");
    }
    let rows = flautino_lab::ask::<i64>(cluster.primary(), "SELECT count(*) FROM t").await;
    assert_eq!(rows, 2 * i64::try_from(MISTAKES.len()).unwrap());
    engine.close().await;
}

#[tokio::test]
async fn a_type_that_sqlx_cannot_read_leaves_no_statements_behind() {
    let Lab { cluster, engine, db, .. } = start("behind").await;
    let db = db.primary();
    for _ in 0..60 {
        make(&db, "a type that sqlx cannot read").await.unwrap_err();
    }
    let sql = "SELECT count(*) FROM pg_prepared_statements";
    let left: i64 = sqlx::query_scalar(sql).fetch_one(&db).await.unwrap();
    assert!(left < 40, "{left}");
    drop(cluster);
    engine.close().await;
}
