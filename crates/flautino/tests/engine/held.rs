//! What a session keeps of its user beyond a reset: values of sequences, temporary slots, locks. Nobody
//! sees another one's, and nobody is told that something is held which is not.

use flautino::{Error, Handle};
use flautino_lab::{Lab, ask, sqlstate, wait_until};

use crate::traces::{PID, Way, lab, leave};

async fn asks(db: &Handle, sql: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(sql).fetch_one(db).await
}

/// `lastval` is not yet defined in this session.
const NOT_YET: &str = "55000";

#[tokio::test]
async fn nobody_sees_which_values_of_sequences_another_one_got() {
    let asking = "CREATE FUNCTION last() RETURNS bigint LANGUAGE sql AS 'SELECT lastval()'; \
                  CREATE VIEW last_of_all AS SELECT lastval(); CREATE SEQUENCE s; \
                  CREATE TABLE counted (a bigint DEFAULT currval('s'))";
    let lab = lab("sequences").sql(asking).start().await;
    let db = &lab.db;
    let advance = async || {
        sqlx::query("SELECT nextval('s')").execute(db).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        sqlx::query("INSERT INTO written (a) VALUES ('a')").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    };
    lab.primary().execute("CREATE TABLE written (id serial, a text)").await.unwrap();
    let questions = [
        "SELECT lastval()",
        "SELECT currval('s')",
        "SELECT \"currval\"('written_id_seq')",
        "SELECT last()",
        "SELECT lastval FROM last_of_all",
        "INSERT INTO counted DEFAULT VALUES RETURNING a",
    ];
    for sql in questions {
        advance().await;
        let error = asks(db, sql).await.unwrap_err();
        assert_eq!(sqlstate(&error), NOT_YET, "by handle: {sql}");

        advance().await;
        let mut lease = db.acquire().await.unwrap();
        let error = sqlx::query(sql).fetch_one(&mut lease).await.unwrap_err();
        assert_eq!(sqlstate(&error), NOT_YET, "on a lease: {sql}");
        drop(lease);

        advance().await;
        let mut lease = db.acquire().await.unwrap();
        let error = sqlx::query(sql).fetch_one(&mut *lease).await.unwrap_err();
        assert_eq!(sqlstate(&error), NOT_YET, "on a bare connection: {sql}");
        drop(lease);

        advance().await;
        let mut tx = db.begin().await.unwrap();
        sqlx::query("UPDATE plain SET a = 1").execute(&mut tx).await.unwrap();
        let error = sqlx::query(sql).fetch_one(&mut tx).await.unwrap_err();
        assert_eq!(sqlstate(&error), NOT_YET, "in a transaction: {sql}");
        tx.rollback().await.unwrap();
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn who_got_values_of_sequences_sees_them() {
    let lab = lab("own").sql("CREATE SEQUENCE s").start().await;
    let db = &lab.db;
    sqlx::query("SELECT nextval('s')").execute(db).await.unwrap();
    let mut lease = db.acquire().await.unwrap();
    let next: i64 = sqlx::query_scalar("SELECT nextval('s')").fetch_one(&mut lease).await.unwrap();
    for sql in ["SELECT lastval()", "SELECT currval('s')"] {
        let last: i64 = sqlx::query_scalar(sql).fetch_one(&mut lease).await.unwrap();
        assert_eq!(last, next, "{sql}");
    }
    drop(lease);
    sqlx::query("SELECT nextval('s')").execute(db).await.unwrap();
    let serializable = flautino::TransactionOptions {
        isolation: Some(flautino::IsolationLevel::Serializable),
        ..flautino::TransactionOptions::default()
    };
    let mut tx = db.begin_with(serializable).await.unwrap();
    sqlx::query("SELECT nextval('s')").execute(&mut tx).await.unwrap();
    let last: i64 = sqlx::query_scalar("SELECT lastval()").fetch_one(&mut tx).await.unwrap();
    assert_eq!(last, next + 2);
    let level: String =
        sqlx::query_scalar("SHOW transaction_isolation").fetch_one(&mut tx).await.unwrap();
    assert_eq!(level, "serializable");
    tx.commit().await.unwrap();
    let both = "SELECT nextval('s'); SELECT lastval()";
    sqlx::raw_sql(both).execute(db).await.unwrap();
    lab.engine.close().await;
}

/// What no reset takes away, and what must hold for the next user.
const SPOILS: &[(&str, &str)] = &[
    (
        "SELECT pg_create_physical_replication_slot('left_behind', true, true)",
        "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE active_pid = pg_backend_pid())",
    ),
    (
        "SELECT pg_replication_origin_session_setup('origin')",
        "SELECT NOT pg_replication_origin_session_is_setup()",
    ),
    ("SELECT isn_weak(true)", "SELECT NOT isn_weak()"),
    ("SELECT weak()", "SELECT NOT isn_weak()"),
    ("SELECT dblink_connect('left', 'host=/nowhere')", "SELECT dblink_get_connections() IS NULL"),
];

#[tokio::test]
async fn what_no_reset_takes_away_ends_the_session() {
    let set_up = "CREATE EXTENSION isn; CREATE EXTENSION dblink; \
                  SELECT pg_replication_origin_create('origin'); \
                  CREATE FUNCTION weak() RETURNS boolean LANGUAGE sql AS 'SELECT isn_weak(true)'";
    let lab = lab("spoils").sql(set_up).start().await;
    for (sql, must_hold) in SPOILS.iter().copied() {
        for way in [Way::Handle, Way::Raw, Way::Lease, Way::Transaction] {
            let before: i32 = sqlx::query_scalar(PID).fetch_one(&lab.db).await.unwrap();
            // The server refuses some of them; their session ends all the same.
            let _ = leave(&lab.db, way, sql).await;
            let clean: bool = sqlx::query_scalar(must_hold).fetch_one(&lab.db).await.unwrap();
            assert!(clean, "{way:?}: {sql}");
            let after: i32 = sqlx::query_scalar(PID).fetch_one(&lab.db).await.unwrap();
            assert_ne!(after, before, "{way:?}: {sql}");
            let ended = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots)";
            wait_until("the slot is gone", async || ask(lab.primary(), ended).await).await;
        }
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn a_temporary_slot_of_a_bare_connection_is_found_by_the_reset() {
    let lab = lab("slot").start().await;
    let mut lease = lab.db.acquire().await.unwrap();
    sqlx::query(SPOILS[0].0).execute(&mut *lease).await.unwrap();
    drop(lease);
    let clean: bool = sqlx::query_scalar(SPOILS[0].1).fetch_one(&lab.db).await.unwrap();
    assert!(clean);
    lab.engine.close().await;
}

#[tokio::test]
async fn a_handle_refuses_what_it_would_not_hold() {
    let grabs = "CREATE FUNCTION grab() RETURNS boolean LANGUAGE sql AS \
                 'SELECT pg_try_advisory_lock(7)'; \
                 CREATE FUNCTION grabs() RETURNS boolean LANGUAGE plpgsql AS \
                 'BEGIN RETURN grab(); END'; CREATE VIEW grabbed AS SELECT grab()";
    let lab = lab("holds").sql(grabs).start().await;
    for (sql, by) in [
        ("SELECT pg_advisory_lock(7)", "pg_advisory_lock"),
        ("SELECT pg_try_advisory_lock(7)", "pg_try_advisory_lock"),
        ("select PG_CATALOG.\"pg_advisory_lock_shared\" (7)", "pg_advisory_lock_shared"),
        ("SELECT pg_try_advisory_lock_shared(7, 8)", "pg_try_advisory_lock_shared"),
        ("SELECT x.pg_advisory_lock FROM generate_series(7, 7) AS x", "pg_advisory_lock"),
        ("SELECT 1; SELECT pg_advisory_lock(7)", "pg_advisory_lock"),
        ("SELECT pg_advisory_unlock(7)", "pg_advisory_unlock"),
        ("SELECT pg_advisory_unlock_all()", "pg_advisory_unlock_all"),
        ("LISTEN news", "LISTEN"),
        ("SELECT grab()", "grab"),
        ("SELECT grabs()", "grabs"),
        ("SELECT * FROM grabbed", "grabbed"),
        ("DO $$ BEGIN PERFORM pg_advisory_lock(7); END $$", "pg_advisory_lock"),
    ] {
        let error = sqlx::raw_sql(sql).execute(&lab.db).await.unwrap_err();
        let is_ours = matches!(Error::of(&error), Some(Error::NeedsLease { name }) if name == by);
        assert!(is_ours, "{sql}: {error}");
        assert!(error.to_string().contains("db.acquire()"), "{error}");
        // It holds where the session is the caller's own.
        let mut lease = lab.db.acquire().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut lease).await.unwrap();
        drop(lease);
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    for sql in [
        "SELECT pg_advisory_xact_lock(7)",
        "SELECT pg_try_advisory_xact_lock_shared(7)",
        "SELECT 'pg_advisory_lock(7)'",
        "NOTIFY news",
        "UNLISTEN *",
        "SELECT leave_lock()",
        "CREATE FUNCTION later() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(7)'",
    ] {
        sqlx::raw_sql(sql).execute(&lab.db).await.unwrap_or_else(|err| panic!("{sql}: {err}"));
    }
    lab.engine.close().await;
}

/// Two who try for the same lock, each on a lease: one gets it.
#[tokio::test]
async fn a_lock_of_a_lease_is_held_until_its_end() {
    let lab = Lab::named("leases").connections(2).start().await;
    let get = "SELECT pg_try_advisory_lock(7)";
    let (mut one, mut two) = (lab.db.acquire().await.unwrap(), lab.db.acquire().await.unwrap());
    assert!(sqlx::query_scalar::<_, bool>(get).fetch_one(&mut one).await.unwrap());
    assert!(!sqlx::query_scalar::<_, bool>(get).fetch_one(&mut two).await.unwrap());
    drop(one);
    wait_until("it is released", async || {
        sqlx::query_scalar(get).fetch_one(&mut two).await.unwrap()
    })
    .await;
    drop(two);
    lab.engine.close().await;
}
