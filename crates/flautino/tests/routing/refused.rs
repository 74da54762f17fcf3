//! What a replica refuses: whether the statement or its values are to blame, and so whether its text
//! is a write from then on.

use std::time::Duration;

use flautino::router::Reason;
use flautino::{Access, EngineConfig, Handle};
use flautino_lab::{Lab, node_of, number, pid, run, sqlstate, wait_until};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Executor, Row, SqlSafeStr, Statement};

use crate::common::{MAIN, is_replica};

/// `refuses` does what a standby refuses, in a way that no reader of its text sees. `raises` fails
/// with the code on a standby, or everywhere.
const SCHEMA: &str = "
    CREATE UNLOGGED TABLE unlogged (a int);
    CREATE SEQUENCE numbers;
    CREATE FUNCTION refuses(what text) RETURNS int LANGUAGE plpgsql STABLE AS $$
        BEGIN
            EXECUTE CASE what
                WHEN 'nothing' THEN 'SELECT 1'
                WHEN 'sequence' THEN 'SELECT nextval(''numbers'')'
                WHEN 'large object' THEN 'SELECT lo_create(0)'
                WHEN 'unlogged' THEN 'SELECT * FROM unlogged'
                WHEN 'log' THEN 'SELECT pg_current_wal_lsn()'
            END;
            RETURN 42;
        END $$;
    CREATE FUNCTION raises(code text, everywhere bool) RETURNS int LANGUAGE plpgsql STABLE AS $$
        BEGIN
            IF code <> '' AND (everywhere OR pg_is_in_recovery()) THEN
                RAISE EXCEPTION USING ERRCODE = code, MESSAGE = 'no';
            END IF;
            RETURN 42;
        END $$";

/// What a standby refuses, and the code. The last three come from a function of the user's.
const REFUSED: [(&str, &str); 7] = [
    ("refuses('sequence')", "25006"),
    ("refuses('large object')", "XX000"),
    ("refuses('unlogged')", "0A000"),
    ("refuses('log')", "55000"),
    ("raises('25006', false)", "25006"),
    ("raises('0A000', false)", "0A000"),
    ("raises('55000', false)", "55000"),
];

async fn start(name: &str) -> Lab {
    let lab = Lab::named(name).replicas(1).sql(SCHEMA).frozen().start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    lab
}

/// The nodes that the session's statements ran on, and why.
fn attempts(db: &Handle) -> Vec<(bool, Reason)> {
    let timings = db.timings().into_iter();
    timings.map(|timing| (is_replica(&timing.node), timing.reason)).collect()
}

const RESCUED: [(bool, Reason); 2] = [(true, Reason::NoFloor), (false, Reason::Rescued)];
const WRITTEN: [(bool, Reason); 1] = [(false, Reason::Write)];
const READ: [(bool, Reason); 1] = [(true, Reason::NoFloor)];

#[tokio::test]
async fn what_a_value_refuses_leaves_its_text_a_read() {
    let lab = start("values").await;
    // The text, a value that is refused, how, and one that is not.
    let queries = [
        ("SELECT date_trunc($1, timestamptz '2020-02-02')::text", "timezone", "0A000", "day"),
        ("SELECT date_part($1, timestamp '2020-02-02')::text", "timezone", "0A000", "day"),
        ("SELECT ($1::text::regclass)::text", "nothing", "42P01", "pg_class"),
        ("SELECT ($1::text::regtype)::text", "nothing", "42704", "int"),
        ("SELECT ($1::text::regproc)::text", "nothing", "42883", "sin"),
        ("SELECT ($1::text::regnamespace)::text", "nothing", "3F000", "public"),
        ("SELECT has_column_privilege('pg_class', $1, 'select')::text", "no", "42703", "oid"),
        ("SELECT ($1::text::int)::text", "one", "22P02", "1"),
        ("SELECT raises($1, true)::text", "0A000", "0A000", ""),
        ("SELECT raises($1, true)::text", "55000", "55000", ""),
        ("SELECT raises($1, true)::text", "25006", "25006", ""),
        ("SELECT raises($1, true)::text", "42P01", "42P01", ""),
    ];
    for (sql, refused, code, taken) in queries {
        assert_eq!(lab.engine.access(sql), Access::Read, "{sql}");
        for _ in 0..2 {
            for streamed in [false, true] {
                let db = lab.engine.handle().recorded();
                let query = sqlx::query(sql).bind(refused);
                let failed = if streamed {
                    query.fetch(&db).try_collect::<Vec<_>>().await.map(drop)
                } else {
                    query.execute(&db).await.map(drop)
                };
                assert_eq!(sqlstate(&failed.unwrap_err()), code, "{sql}");
                assert_eq!(lab.engine.access(sql), Access::Read, "{sql}, {refused}");
            }
            let db = lab.engine.handle().recorded();
            sqlx::query(sql).bind(taken).execute(&db).await.unwrap();
            assert_eq!(attempts(&db), READ, "{sql}, {taken}");
        }
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn what_the_primary_runs_after_a_replica_refused_it_is_a_write() {
    let lab = start("standby").await;
    for (call, code) in REFUSED {
        for streamed in [false, true] {
            let sql = format!("SELECT {call} /* {streamed} */");
            assert_eq!(lab.engine.access(&sql), Access::Read, "{call}");
            for expected in [&RESCUED[..], &WRITTEN] {
                let db = lab.engine.handle().recorded();
                let query = sqlx::query_scalar(AssertSqlSafe(sql.clone()));
                let answers: Vec<i32> = if streamed {
                    query.fetch(&db).try_collect().await.unwrap()
                } else {
                    vec![query.fetch_one(&db).await.unwrap()]
                };
                assert_eq!(answers, [42], "{call}");
                assert_eq!(attempts(&db), expected, "{call}, {code}");
            }
            assert_eq!(lab.engine.access(&sql), Access::Write, "{call}");
        }
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn what_a_replica_has_not_replayed_leaves_its_text_a_read() {
    let lab = start("behind").await;
    let view = "CREATE MATERIALIZED VIEW later AS SELECT 42::int8 WITH NO DATA";
    lab.primary().execute(view).await.unwrap();
    lab.cluster.replica(0).catch_up_with(lab.primary()).await.unwrap();
    lab.cluster.replica(0).pause_replay().await.unwrap();
    lab.primary().execute("REFRESH MATERIALIZED VIEW later").await.unwrap();
    lab.primary().execute("CREATE TABLE newer AS SELECT 42::int8").await.unwrap();
    for sql in ["SELECT * FROM later", "SELECT * FROM newer"] {
        let db = lab.engine.handle().recorded();
        assert_eq!(number(&db, sql).await.unwrap(), 42);
        assert_eq!(attempts(&db), RESCUED, "{sql}");
        assert_eq!(lab.engine.access(sql), Access::Read, "{sql}");
    }
    lab.cluster.replica(0).resume_replay().await.unwrap();
    lab.cluster.replica(0).catch_up_with(lab.primary()).await.unwrap();
    for sql in ["SELECT * FROM later", "SELECT * FROM newer"] {
        let db = lab.engine.handle().recorded();
        assert_eq!(number(&db, sql).await.unwrap(), 42);
        assert_eq!(attempts(&db), READ, "{sql}");
    }
    lab.engine.close().await;
}

/// A text of 2,000 rows of 1 kB, of which the 1501st is refused.
fn refused_late(call: &str, otherwise: &str) -> String {
    format!(
        "SELECT repeat('x', 1000), CASE number WHEN 1501 THEN {call} ELSE {otherwise} END \
         FROM generate_series(1, 2000) AS number"
    )
}

async fn all(db: &Handle, sql: &str) -> Result<Vec<(String, i32)>, sqlx::Error> {
    sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(db).await
}

#[tokio::test]
async fn a_refusal_after_rows_were_given_out_is_an_error_and_remembered() {
    let lab = start("late").await;
    for (call, code) in &REFUSED[..4] {
        let sql = refused_late(call, "42");
        let db = lab.engine.handle().recorded();
        let refused = sqlstate(&all(&db, &sql).await.unwrap_err());
        // Since PostgreSQL 16, large objects are refused with the proper code, too.
        let is_newer = call.contains("large object") && refused == "25006";
        assert!(refused == *code || is_newer, "{call}: {refused}");
        assert_eq!(attempts(&db), READ, "{call}");
        assert_eq!(lab.engine.access(&sql), Access::Write, "{call}");
        let db = lab.engine.handle().recorded();
        assert_eq!(all(&db, &sql).await.unwrap().len(), 2000, "{call}");
        assert_eq!(attempts(&db), WRITTEN, "{call}");
    }
    // Not what a value is to blame for.
    let part = "date_part(CASE number WHEN 1501 THEN 'timezone' ELSE 'day' END, timestamp 'now')";
    let values = [
        (refused_late(&format!("{part}::int"), "42"), "0A000"),
        (refused_late("raises('55000', true)", "42"), "55000"),
    ];
    for (sql, code) in values {
        let failed = all(&lab.engine.handle(), &sql).await.unwrap_err();
        assert_eq!(sqlstate(&failed), code, "{sql}");
        assert_eq!(lab.engine.access(&sql), Access::Read, "{sql}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_refusal_before_rows_were_given_out_is_run_on_the_primary_and_each_row_comes_once() {
    let lab = start("early").await;
    for (call, _) in REFUSED {
        let sql = format!(
            "SELECT number::text, CASE number WHEN 3 THEN {call} ELSE 1 END \
             FROM generate_series(1, 5) AS number"
        );
        let db = lab.engine.handle().recorded();
        let rows = all(&db, &sql).await.unwrap();
        let numbers: Vec<_> = rows.iter().map(|(number, _)| number.as_str()).collect();
        assert_eq!(numbers, ["1", "2", "3", "4", "5"], "{call}");
        assert_eq!(attempts(&db), RESCUED, "{call}");
    }
    // Both refuse, so the rows before come once too, and then the error.
    let sql = "SELECT number, CASE number WHEN 3 THEN raises('0A000', true) END \
               FROM generate_series(1, 5) AS number";
    let db = lab.engine.handle().recorded();
    let mut rows = sqlx::query_as::<_, (i32, Option<i32>)>(sql).fetch(&db);
    assert_eq!(rows.try_next().await.unwrap(), Some((1, None)));
    assert_eq!(rows.try_next().await.unwrap(), Some((2, None)));
    assert_eq!(sqlstate(&rows.try_next().await.unwrap_err()), "0A000");
    assert_eq!(rows.try_next().await.unwrap(), None);
    drop(rows);
    assert_eq!(attempts(&db), RESCUED);
    lab.engine.close().await;
}

/// The ways to run a statement through a handle.
const WAYS: [&str; 5] = ["execute", "one", "all", "stream", "prepared"];

async fn run_by(db: &Handle, way: &str, sql: String) {
    let text = AssertSqlSafe(sql);
    let answer: i32 = match way {
        "execute" => {
            sqlx::query(text).execute(db).await.unwrap();
            return;
        }
        "one" => sqlx::query_scalar(text).fetch_one(db).await.unwrap(),
        "all" => sqlx::query_scalar(text).fetch_all(db).await.unwrap()[0],
        "stream" => sqlx::query_scalar(text).fetch(db).try_next().await.unwrap().unwrap(),
        "prepared" => {
            let statement = db.prepare(text.into_sql_str()).await.unwrap();
            statement.query().fetch_one(db).await.unwrap().get(0)
        }
        _ => unreachable!(),
    };
    assert_eq!(answer, 42);
}

/// The reason for the node of the session's next read.
async fn next_reason(db: &Handle) -> Reason {
    run(db, "SELECT 1").await.unwrap();
    db.timings().pop().unwrap().reason
}

#[tokio::test]
async fn what_the_primary_ran_in_place_of_a_replica_is_a_write_of_its_session() {
    let lab = start("session").await;
    for (call, _) in REFUSED {
        for way in WAYS {
            let db = lab.engine.handle().recorded();
            run_by(&db, way, format!("SELECT {call} /* {way} */")).await;
            assert!(attempts(&db).ends_with(&RESCUED), "{call}, {way}: {:?}", attempts(&db));
            assert_eq!(next_reason(&db).await, Reason::OwnWrite, "{call}, {way}");
            assert!(db.token().await.is_some(), "{call}, {way}");
        }
    }
    // And one of a text that is known by then, on whatever runs it.
    let sql = "SELECT refuses('sequence') /* known */";
    run(&lab.engine.handle(), sql).await.unwrap();
    let db = lab.engine.handle().recorded();
    let mut lease = db.acquire().await.unwrap();
    sqlx::query(sql).execute(&mut lease).await.unwrap();
    drop(lease);
    assert_eq!(next_reason(&db).await, Reason::OwnWrite);
    let db = lab.engine.handle().recorded();
    let mut tx = db.begin().await.unwrap();
    sqlx::query(sql).execute(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(next_reason(&db).await, Reason::OwnWrite);
    lab.engine.close().await;
}

#[tokio::test]
async fn it_is_a_write_of_its_session_also_when_the_primary_is_reached_at_the_second_attempt() {
    // Long enough for the statement to find out by itself that nobody is there.
    let seldom = |config: &mut EngineConfig| config.routing.probe_interval = Duration::from_secs(3);
    let lab = Lab::named("second").replicas(1).sql(SCHEMA).behind_proxy().one_connection();
    let lab = lab.patient_probes().config(seldom).start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    // The statement needs a new connection, and finds nobody there.
    lab.db.acquire().await.unwrap().close().await.unwrap();
    lab.proxy().cut().await;
    let db = lab.engine.handle().recorded();
    let (engine, proxy) = (&lab.engine, lab.proxy());
    let heal = async {
        wait_until("the primary is down", async || engine.status().primary.is_none()).await;
        proxy.heal().unwrap();
    };
    let ((), ()) =
        tokio::join!(run_by(&db, "one", "SELECT raises('55000', false)".to_owned()), heal);
    assert_eq!(node_of(&db), MAIN);
    // But for a monitor that was faster, this is its second attempt there.
    let reason = db.timings().pop().unwrap().reason;
    assert!(matches!(reason, Reason::Retried | Reason::Rescued), "{reason:?}");
    assert_ne!(next_reason(&db).await, Reason::NoFloor);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_refused_stream_that_is_dropped_half_way_is_no_proof() {
    let lab = start("dropped").await;
    let sql = "SELECT repeat('x', 1000), raises('0A000', false) FROM generate_series(1, 100000)";
    let db = lab.engine.handle().recorded();
    let mut rows = sqlx::query(sql).fetch(&db);
    rows.try_next().await.unwrap().unwrap();
    drop(rows);
    assert_eq!(lab.engine.access(sql), Access::Read);
    assert_eq!(next_reason(&db).await, Reason::OwnWrite);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_function_that_raises_the_code_of_a_read_only_server_says_nothing_about_its_server() {
    let lab = Lab::named("raised").replicas(1).sql(SCHEMA).one_connection().start().await;
    let db = lab.engine.handle().primary();
    let before = pid(&db).await;
    for sql in ["SELECT raises('25006', true)", "SELECT raises('25006', true), nextval('numbers')"]
    {
        assert_eq!(sqlstate(&run(&lab.db, sql).await.unwrap_err()), "25006");
        assert_eq!(pid(&db).await, before, "the connection was replaced");
    }
    lab.engine.close().await;
}
