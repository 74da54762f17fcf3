//! A handle with settings: they are in force for all that runs through it, and for nothing else.

use flautino::{Error, Handle};
use flautino_lab::{Capture, Lab, ask, node_of, pause_replay, pid, resume_replay, run, sqlstate};
use futures_util::TryStreamExt;
use sqlx::{Acquire, Executor};

const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";

async fn tenant(db: &Handle) -> String {
    sqlx::query_scalar(TENANT).fetch_one(db).await.unwrap()
}

fn of(db: &Handle, tenant: &str) -> Handle {
    db.with_settings([("app.tenant", tenant)])
}

/// How often settings were sent, by the log.
fn sent(capture: &Capture) -> usize {
    let queries = capture.of("flautino::query");
    let sql = queries.iter().map(|event| event.field("sql"));
    sql.filter(|sql| sql.contains("set_config('app") || sql.contains("set_config(E'app")).count()
}

#[tokio::test]
async fn they_are_in_force_whatever_way_a_statement_takes_and_gone_for_the_next_handle() {
    let lab = Lab::named("settings").one_connection().start().await;
    let plain = &lab.db;
    let db = of(plain, "7");
    let process = pid(plain).await;
    for way in 0..9 {
        let seen: String = match way {
            0 => sqlx::query_scalar(TENANT).fetch_one(&db).await.unwrap(),
            1 => sqlx::query_scalar(TENANT).fetch_all(&db).await.unwrap().remove(0),
            2 => sqlx::query_scalar(TENANT).fetch(&db).try_next().await.unwrap().unwrap(),
            3 => {
                let mut tx = db.begin().await.unwrap();
                sqlx::query_scalar(TENANT).fetch_one(&mut tx).await.unwrap()
            }
            4 => {
                let mut lease = db.acquire().await.unwrap();
                sqlx::query_scalar(TENANT).fetch_one(&mut lease).await.unwrap()
            }
            5 => {
                let mut lease = db.acquire().await.unwrap();
                sqlx::query_scalar(TENANT).fetch_one(&mut *lease).await.unwrap()
            }
            6 => {
                let work = async |tx: &mut flautino::Transaction| {
                    sqlx::query_scalar(TENANT).fetch_one(tx).await
                };
                db.transaction::<_, sqlx::Error, _>(work).await.unwrap()
            }
            7 => {
                let prepared = (&db).prepare(sqlx::SqlStr::from_static(TENANT)).await.unwrap();
                let seen = sqlx::Statement::query(&prepared).fetch_one(&db).await.unwrap();
                sqlx::Row::get(&seen, 0)
            }
            _ => {
                let mut tx = Acquire::begin(&db).await.unwrap();
                sqlx::query_scalar(TENANT).fetch_one(&mut *tx).await.unwrap()
            }
        };
        assert_eq!(seen, "7", "way {way}");
        // Each way first, and after one without.
        assert_eq!(tenant(plain).await, "", "after way {way}");
    }
    let mut tx = plain.begin().await.unwrap();
    let seen: String = sqlx::query_scalar(TENANT).fetch_one(&mut tx).await.unwrap();
    assert_eq!(seen, "");
    tx.rollback().await.unwrap();
    assert_eq!(pid(plain).await, process, "no connection was lost for it");
    lab.engine.close().await;
}

#[tokio::test]
async fn before_the_engine_is_open_too() {
    let lab = Lab::named("settings").start_closed().await;
    let db = of(&lab.db, "7");
    assert_eq!(tenant(&db).await, "7");
    let mut tx = db.begin().await.unwrap();
    let seen: String = sqlx::query_scalar(TENANT).fetch_one(&mut tx).await.unwrap();
    assert_eq!(seen, "7");
    let mut lease = db.acquire().await.unwrap();
    let seen: String = sqlx::query_scalar(TENANT).fetch_one(&mut lease).await.unwrap();
    assert_eq!(seen, "7");
    assert_eq!(tenant(&lab.db).await, "");
}

#[tokio::test]
async fn a_connection_that_carries_them_is_lent_to_the_same_tenant_without_a_message() {
    let lab = Lab::named("settings").connections(2).always_warm();
    let lab = lab.config(|config| config.log_queries = true).start().await;
    let (one, two) = (of(&lab.db, "1"), of(&lab.db, "2"));
    // One connection for each.
    let lease = one.acquire().await.unwrap();
    assert_eq!(tenant(&two).await, "2");
    drop(lease);
    assert_eq!(tenant(&one).await, "1");
    let capture = Capture::start();
    for _ in 0..10 {
        assert_eq!(tenant(&two).await, "2");
        // Another handle of the same settings.
        assert_eq!(tenant(&of(&lab.db, "1")).await, "1");
        let mut tx = two.begin().await.unwrap();
        let seen: String = sqlx::query_scalar(TENANT).fetch_one(&mut tx).await.unwrap();
        assert_eq!(seen, "2");
        tx.commit().await.unwrap();
    }
    assert_eq!(sent(&capture), 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_transaction_gets_them_in_the_message_that_begins_it() {
    let lab = Lab::named("settings").one_connection();
    let lab = lab.config(|config| config.log_queries = true).start().await;
    run(&lab.db, "SELECT 1").await.unwrap();
    let capture = Capture::start();
    of(&lab.db, "1").begin().await.unwrap().commit().await.unwrap();
    of(&lab.db, "2").begin().await.unwrap().commit().await.unwrap();
    lab.db.begin().await.unwrap().commit().await.unwrap();
    let events = capture.of("flautino::query");
    let begun = events.iter().filter(|event| event.field("sql").contains("BEGIN"));
    let sent = events.iter().filter(|event| event.field("message").contains("sending"));
    let (begun, sent) = (begun.count(), sent.count());
    println!("{events:#?}");
    assert!(begun >= 3, "{begun}");
    assert_eq!(sent, 6, "three BEGIN and three COMMIT");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_rollback_keeps_them_and_what_a_transaction_changes_is_gone() {
    let lab = Lab::named("settings").one_connection().start().await;
    let db = of(&lab.db, "1");
    let mut tx = db.begin().await.unwrap();
    let savepoint = tx.savepoint().await.unwrap();
    savepoint.rollback().await.unwrap();
    let seen: String = sqlx::query_scalar(TENANT).fetch_one(&mut tx).await.unwrap();
    assert_eq!(seen, "1");
    tx.rollback().await.unwrap();
    assert_eq!(tenant(&db).await, "1");
    for sql in ["SET app.tenant = '2'", "SELECT set_config('app.tenant', '2', false)"] {
        let mut tx = db.begin().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(tenant(&db).await, "1", "{sql}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&db).await.unwrap();
        assert_eq!(tenant(&db).await, "1", "{sql}");
        assert_eq!(tenant(&lab.db).await, "", "{sql}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_role_is_one_too() {
    let lab = Lab::named("settings").one_connection().sql("CREATE ROLE a; CREATE ROLE b");
    let lab = lab.start().await;
    let user = async |db: &Handle| {
        sqlx::query_scalar::<_, String>("SELECT current_user::text").fetch_one(db).await.unwrap()
    };
    let (a, b) = (lab.db.with_settings([("role", "a")]), lab.db.with_settings([("ROLE", "b")]));
    for _ in 0..2 {
        assert_eq!(user(&a).await, "a");
        assert_eq!(user(&b).await, "b");
        assert_eq!(user(&lab.db).await, "postgres");
        assert_eq!(user(&b.with_settings([("role", "a")])).await, "a");
        // What a role may not set is set before it, whatever role the session had.
        let set = b.with_settings([("log_lock_waits", "on")]);
        assert_eq!(sqlstate(&run(&set, "SELECT 1").await.unwrap_err()), "42501");
        let set = lab.db.with_settings([("log_lock_waits", "on"), ("role", "b")]);
        assert_eq!(user(&set).await, "b");
        let set = set.with_settings([("log_lock_waits", "off"), ("role", "a")]);
        assert_eq!(user(&set).await, "a");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn those_of_the_engine_s_own_sessions_come_back() {
    let lab = Lab::named("settings").one_connection().config(|config| {
        config.main.statement_timeout = Some(std::time::Duration::from_secs(77));
    });
    let lab = lab.start().await;
    let timeout = async |db: &Handle| {
        let sql = "SELECT current_setting('statement_timeout')";
        sqlx::query_scalar::<_, String>(sql).fetch_one(db).await.unwrap()
    };
    let db = lab.db.with_settings([("statement_timeout", "5s"), ("work_mem", "9MB")]);
    assert_eq!(timeout(&db).await, "5s");
    assert_eq!(timeout(&lab.db.with_settings([("work_mem", "9MB")])).await, "77s");
    assert_eq!(timeout(&db).await, "5s");
    assert_eq!(timeout(&lab.db).await, "77s");
    lab.engine.close().await;
}

#[tokio::test]
async fn one_text_means_each_tenant_s_own_tables_and_types() {
    let schemas = "CREATE SCHEMA a; CREATE TYPE a.mood AS ENUM ('sad'); \
                   CREATE TABLE a.t (n int, m a.mood); INSERT INTO a.t VALUES (1, 'sad'); \
                   CREATE SCHEMA b; CREATE TYPE b.mood AS ENUM ('glad'); \
                   CREATE TABLE b.t (n text, m b.mood); INSERT INTO b.t VALUES ('x', 'glad')";
    let lab = Lab::named("settings").one_connection().sql(schemas).start().await;
    let (a, b) = (
        lab.db.with_settings([("search_path", "a")]),
        lab.db.with_settings([("search_path", "b")]),
    );
    for _ in 0..3 {
        let sql = "SELECT n, m::text FROM t WHERE m = $1::text::mood AND n = $2";
        let row: (i32, String) =
            sqlx::query_as(sql).bind("sad").bind(1).fetch_one(&a).await.unwrap();
        assert_eq!(row, (1, "sad".to_owned()));
        let row: (String, String) =
            sqlx::query_as(sql).bind("glad").bind("x").fetch_one(&b).await.unwrap();
        assert_eq!(row, ("x".to_owned(), "glad".to_owned()));
        let error = sqlx::query("SELECT FROM t").execute(&lab.db).await.unwrap_err();
        assert_eq!(sqlstate(&error), "42P01");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn one_that_the_server_refuses_fails_the_statement_and_nothing_else() {
    let lab = Lab::named("settings").one_connection().table("t (n int)").start().await;
    let before = pid(&lab.db).await;
    for (name, value, code) in [
        ("role", "nobody_of_that_name", "22023"),
        ("work_mem", "much", "22023"),
        ("no_such_setting", "1", "42704"),
        ("a'; DROP TABLE t; --", "1", "42704"),
    ] {
        let db = lab.db.with_settings([("app.tenant", "1"), (name, value)]);
        let refused = [
            run(&db, "INSERT INTO t VALUES (1)").await.unwrap_err(),
            db.begin().await.map(drop).unwrap_err(),
            db.acquire().await.map(drop).unwrap_err(),
            Acquire::begin(&db).await.map(drop).unwrap_err(),
        ];
        for (way, error) in refused.iter().enumerate() {
            assert_eq!(sqlstate(error), code, "{name} {way}: {error}");
        }
        // On the same connection, after it was reset.
        assert_eq!(tenant(&lab.db).await, "", "{name}");
        let mut tx = lab.db.begin().await.unwrap();
        let seen: String = sqlx::query_scalar(TENANT).fetch_one(&mut tx).await.unwrap();
        assert_eq!(seen, "", "{name}");
        tx.rollback().await.unwrap();
    }
    assert_eq!(pid(&lab.db).await, before);
    let rows: i64 = ask(lab.primary(), "SELECT count(*) FROM t").await;
    assert_eq!(rows, 0);
    lab.engine.close().await;
}

#[tokio::test]
async fn any_text_is_a_value_but_one_with_a_zero_byte() {
    let lab = Lab::named("settings").one_connection().start().await;
    for value in ["", "it's", "a\\'b\\", "E'x'", "$$;", "日本\n", "null"] {
        assert_eq!(tenant(&of(&lab.db, value)).await, value);
        let odd = of(&lab.db, value).with_settings([("standard_conforming_strings", "off")]);
        assert_eq!(tenant(&odd).await, value);
        assert_eq!(
            tenant(&odd.with_settings([("app.tenant", format!("{value}'"))])).await,
            format!("{value}'")
        );
    }
    for (name, value) in [("app.tenant", "a\0b"), ("app.\0x", "a"), ("", "a")] {
        let db = lab.db.with_settings([(name, value)]);
        for error in [
            run(&db, "SELECT 1").await.unwrap_err(),
            db.begin().await.map(drop).unwrap_err(),
            db.acquire().await.map(drop).unwrap_err(),
        ] {
            assert!(matches!(Error::of(&error), Some(Error::InvalidSetting { .. })), "{error}");
        }
    }
    assert_eq!(lab.db.with_settings::<_, &str, &str>([]).settings(), []);
    lab.engine.close().await;
}

#[tokio::test]
async fn their_values_are_neither_logged_nor_shown() {
    let lab = Lab::named("settings").one_connection();
    let lab = lab.config(|config| config.log_queries = true).start().await;
    let capture = Capture::start();
    let db = of(&lab.db, "s3cret");
    assert_eq!(tenant(&db).await, "s3cret");
    assert_eq!(tenant(&lab.db).await, "");
    db.begin().await.unwrap().commit().await.unwrap();
    drop(db.acquire().await.unwrap());
    drop(Acquire::begin(&db).await.unwrap());
    let logged = format!("{:?} {db:?}", capture.all());
    assert!(logged.contains("app.tenant"), "{logged}");
    assert!(!logged.contains("s3cret"), "{logged}");
    lab.engine.close().await;
}

#[tokio::test]
async fn a_replica_that_does_not_know_the_role_yet_is_left_out() {
    let lab = Lab::named("settings").replicas(1).table("t (n int)").start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    pause_replay(&lab.cluster).await;
    lab.primary().execute("CREATE ROLE late; GRANT SELECT ON t TO late").await.unwrap();
    let db = lab.engine.handle().with_settings([("role", "late")]);
    run(&db, "SELECT n FROM t").await.unwrap();
    assert_eq!(node_of(&db), "main");
    let options = flautino::TransactionOptions { read_only: true, ..Default::default() };
    let tx = db.begin_with(options).await.unwrap();
    assert_eq!(tx.node(), "main");
    tx.rollback().await.unwrap();
    resume_replay(&lab.cluster).await;
    lab.engine.close().await;
}

#[tokio::test]
async fn hooks_never_meet_the_settings_of_a_handle() {
    let lab = Lab::named("settings").one_connection().engine(|engine| {
        let before = async |connection: &mut sqlx::PgConnection| {
            let seen: String = sqlx::query_scalar(TENANT).fetch_one(connection).await?;
            assert_eq!(seen, "hook");
            Ok(true)
        };
        let set = async |connection: &mut sqlx::PgConnection| {
            connection.execute("SET app.tenant = 'hook'").await.map(drop)
        };
        engine.after_connect(set).before_acquire(before)
    });
    let lab = lab.start().await;
    for _ in 0..3 {
        assert_eq!(tenant(&of(&lab.db, "1")).await, "1");
        assert_eq!(tenant(&lab.db).await, "hook");
        assert_eq!(tenant(&of(&lab.db, "2")).await, "2");
    }
    lab.engine.close().await;
}
