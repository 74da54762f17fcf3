//! What functions, triggers and views of the user's own leave in a session, the next user of the
//! connection never sees.

use flautino::Handle;
use flautino_lab::{Lab, LabBuilder, end_sessions, wait_until};

pub(crate) const PID: &str = "SELECT pg_backend_pid()";
const NO_TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '') = ''";
const NO_TABLE: &str = "SELECT to_regclass('pg_temp.left_behind') IS NULL";

const SCHEMA: &str = r#"
    CREATE TABLE notes (id serial PRIMARY KEY, title text);
    CREATE TABLE parts (note int REFERENCES notes ON DELETE CASCADE, title text);
    CREATE TABLE plain (a int, b text);
    CREATE TABLE parted (a int) PARTITION BY LIST (a);
    CREATE TABLE part_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE TABLE ruled (a int);

    CREATE FUNCTION leave() RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RETURN set_config('app.tenant', 'left', false); END $$;
    CREATE FUNCTION leave_sql() RETURNS text LANGUAGE sql AS
        $$ SELECT pg_catalog.set_config('app.tenant', 'left', false) $$;
    CREATE FUNCTION leave_plain() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN /* as a tenant */ SET app.tenant = 'left'; END $$;
    CREATE FUNCTION leave_dynamic(who text) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN EXECUTE format('SET app.tenant = %L', who); END $$;
    CREATE FUNCTION leave_conditional() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN IF true THEN SET SESSION app.tenant TO 'left'; END IF; END $$;
    CREATE SCHEMA other;
    CREATE FUNCTION other.calls() RETURNS text LANGUAGE sql AS 'SELECT public.leave()';
    CREATE FUNCTION "Calls too"() RETURNS text LANGUAGE plpgsql AS
        'BEGIN RETURN (SELECT other . calls ()); END';
    CREATE FUNCTION leave_table() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN CREATE TEMPORARY TABLE left_behind (a int); END $$;
    CREATE FUNCTION leave_channel() RETURNS void LANGUAGE plpgsql AS $$ BEGIN LISTEN news; END $$;
    CREATE FUNCTION leave_lock() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_lock(1); PERFORM pg_advisory_lock(1);
           PERFORM pg_advisory_unlock(1); END $$;
    CREATE FUNCTION with_default(a text DEFAULT leave()) RETURNS text LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION of_row(p plain) RETURNS text LANGUAGE sql AS 'SELECT leave()';
    CREATE FUNCTION by_xml() RETURNS xml LANGUAGE sql AS
        $$ SELECT query_to_xml('SELECT leave()', true, true, '') $$;

    CREATE FUNCTION leave_row() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM leave(); RETURN coalesce(NEW, OLD); END $$;
    CREATE TRIGGER t AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION leave_row();
    CREATE TRIGGER t AFTER DELETE ON parts FOR EACH ROW EXECUTE FUNCTION leave_row();
    CREATE TRIGGER t AFTER INSERT ON part_1 FOR EACH ROW EXECUTE FUNCTION leave_row();
    CREATE VIEW tenants AS SELECT leave() AS tenant;
    CREATE VIEW all_tenants AS SELECT * FROM tenants;
    CREATE VIEW titles AS SELECT title FROM notes;
    CREATE VIEW instead AS SELECT 1 AS a;
    CREATE TRIGGER t INSTEAD OF INSERT ON instead FOR EACH ROW EXECUTE FUNCTION leave_row();
    CREATE FUNCTION adds() RETURNS void LANGUAGE sql AS 'INSERT INTO notes (title) VALUES (NULL)';
    CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT leave();
    CREATE TABLE defaults (a text DEFAULT leave_sql(), b int);
    CREATE DOMAIN checked AS text CHECK (leave() IS NOT NULL);
    CREATE DOMAIN checked_too AS checked;
    CREATE TABLE of_domain (a checked_too, b int);
    CREATE FUNCTION of_int(a int, b int) RETURNS text LANGUAGE sql AS 'SELECT leave()';
    CREATE AGGREGATE gather(int) (SFUNC = gather_one, STYPE = int);
"#;

/// What is done, and what must hold for the next user.
const CASES: &[(&str, &str)] = &[
    ("SELECT leave()", NO_TENANT),
    ("SELECT * FROM Leave()", NO_TENANT),
    ("SELECT public . \"leave\" ()", NO_TENANT),
    ("SELECT 1; SELECT leave_sql()", NO_TENANT),
    ("SELECT leave_plain()", NO_TENANT),
    ("SELECT leave_dynamic('left')", NO_TENANT),
    ("SELECT leave_conditional()", NO_TENANT),
    ("SELECT leave_atomic()", NO_TENANT),
    ("SELECT other.calls()", NO_TENANT),
    ("SELECT \"Calls too\"()", NO_TENANT),
    ("SELECT with_default()", NO_TENANT),
    ("SELECT p.of_row FROM plain AS p", NO_TENANT),
    ("SELECT by_xml()", NO_TENANT),
    ("SELECT query_to_xml('SELECT leave()', true, true, '')", NO_TENANT),
    ("DO $$ BEGIN PERFORM leave(); END $$", NO_TENANT),
    ("SELECT leave_table()", NO_TABLE),
    ("SELECT leave_channel()", "SELECT NOT EXISTS (SELECT FROM pg_listening_channels())"),
    ("SELECT leave_lock()", "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')"),
    ("INSERT INTO notes (title) VALUES ('a')", NO_TENANT),
    ("INSERT INTO titles VALUES ('a')", NO_TENANT),
    ("WITH w AS (INSERT INTO \"notes\" (title) VALUES ('a') RETURNING 1) TABLE w", NO_TENANT),
    ("SELECT adds()", NO_TENANT),
    ("DELETE FROM notes WHERE id = -1", NO_TENANT),
    ("INSERT INTO parted VALUES (1)", NO_TENANT),
    ("INSERT INTO instead VALUES (1)", NO_TENANT),
    ("INSERT INTO ruled VALUES (1)", NO_TENANT),
    ("INSERT INTO defaults (b) VALUES (1)", NO_TENANT),
    ("INSERT INTO of_domain VALUES ('a', 1)", NO_TENANT),
    ("SELECT 'a'::checked_too", NO_TENANT),
    ("TABLE all_tenants", NO_TENANT),
    ("SELECT gather(a) FROM (VALUES (1)) AS v (a)", NO_TENANT),
];

pub(crate) fn lab(name: &str) -> LabBuilder<'_> {
    // A function that is called by the aggregate, and what depends on the version.
    let before = "CREATE FUNCTION gather_one(int, int) RETURNS int LANGUAGE plpgsql AS \
                  $$ BEGIN PERFORM set_config('app.tenant', 'left', false); RETURN $2; END $$";
    let atomic = "DO $do$ BEGIN IF current_setting('server_version_num')::int >= 140000 THEN \
                  EXECUTE 'CREATE FUNCTION leave_atomic() RETURNS text BEGIN ATOMIC \
                  SELECT set_config(''app.tenant'', ''left'', false); END'; ELSE \
                  EXECUTE 'CREATE FUNCTION leave_atomic() RETURNS text LANGUAGE sql AS \
                  ''SELECT leave()'''; END IF; END $do$";
    Lab::named(name).sql(before).sql(SCHEMA).sql(atomic).one_connection().always_warm()
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Handle,
    Raw,
    Lease,
    Transaction,
}

pub(crate) async fn leave(db: &Handle, way: Way, sql: &'static str) -> Result<(), sqlx::Error> {
    match way {
        Way::Handle => sqlx::query(sql).fetch_all(db).await.map(drop),
        Way::Raw => sqlx::raw_sql(sql).execute(db).await.map(drop),
        Way::Lease => sqlx::raw_sql(sql).execute(&mut db.acquire().await?).await.map(drop),
        Way::Transaction => {
            let mut tx = db.begin().await?;
            sqlx::raw_sql(sql).execute(&mut tx).await?;
            tx.commit().await
        }
    }
}

#[tokio::test]
async fn what_functions_and_triggers_leave_is_washed_off() {
    let lab = lab("traces").start().await;
    lab.primary().execute("INSERT INTO plain VALUES (1, 'a')").await.unwrap();
    check(lab, CASES).await;
}

/// These may be at work in any statement.
#[tokio::test]
async fn what_operators_leave_is_washed_off() {
    let operator = "CREATE OPERATOR <%%> (FUNCTION = of_int, LEFTARG = int, RIGHTARG = int)";
    let lab = lab("operators").sql(operator).start().await;
    check(lab, &[("SELECT 1 <%%> 2", NO_TENANT)]).await;
}

#[tokio::test]
async fn what_event_triggers_leave_is_washed_off() {
    let trigger = "CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS \
                   $$ BEGIN PERFORM leave(); END $$; \
                   CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION on_ddl(); \
                   CREATE FUNCTION defines() RETURNS void LANGUAGE plpgsql AS \
                   $$ BEGIN COMMENT ON TABLE plain IS 'a'; END $$";
    let lab = lab("events").sql(trigger).start().await;
    let cases = [("COMMENT ON TABLE plain IS 'a'", NO_TENANT), ("SELECT defines()", NO_TENANT)];
    check(lab, &cases).await;
}

/// Leaves each behind in each way; fails with a list of what the next user found.
async fn check(lab: Lab, cases: &[(&'static str, &'static str)]) {
    let Lab { cluster, engine, db, .. } = lab;
    let mut found = Vec::new();
    for (sql, must_hold) in cases.iter().copied() {
        for way in [Way::Handle, Way::Raw, Way::Lease, Way::Transaction] {
            if matches!(way, Way::Handle) && sql.contains("; SELECT") {
                continue;
            }
            let add = "INSERT INTO notes VALUES (-1, 'a'); INSERT INTO parts VALUES (-1, 'a')";
            if sql.starts_with("DELETE") {
                cluster.primary().execute(add).await.unwrap();
            }
            leave(&db, way, sql).await.unwrap_or_else(|err| panic!("{way:?}: {sql}: {err}"));
            let clean: bool = sqlx::query_scalar(must_hold).fetch_one(&db).await.unwrap();
            if !clean {
                found.push(format!("{way:?}: {sql}"));
                let pid: i32 = sqlx::query_scalar(PID).fetch_one(&db).await.unwrap();
                end_sessions(cluster.primary(), &format!("pid = {pid}")).await;
                let _ = sqlx::query(PID).execute(&db).await;
            }
        }
    }
    engine.close().await;
    assert!(found.is_empty(), "the next user found {found:#?}");
}

#[tokio::test]
async fn on_replicas_too() {
    let lab = lab("replicas").replicas(1).start().await;
    let replica = lab.engine.handle().node("read_replica_1").unwrap();
    for sql in ["SELECT leave()", "TABLE all_tenants", "SELECT leave_dynamic('left')"] {
        leave(&replica, Way::Handle, sql).await.unwrap();
        let clean: bool = sqlx::query_scalar(NO_TENANT).fetch_one(&replica).await.unwrap();
        assert!(clean, "{sql}");
    }
    lab.engine.close().await;
}

#[tokio::test]
async fn an_engine_over_a_pool_knows_it_too() {
    let lab = lab("external").start_closed().await;
    let options = sqlx::postgres::PgPoolOptions::new().max_connections(1);
    let pool = options.connect(&lab.primary().url()).await.unwrap();
    let engine = flautino::Engine::from_pool(pool);
    let db = engine.handle();
    for sql in ["SELECT leave()", "INSERT INTO notes (title) VALUES ('a')"] {
        leave(&db, Way::Handle, sql).await.unwrap();
        let clean: bool = sqlx::query_scalar(NO_TENANT).fetch_one(&db).await.unwrap();
        assert!(clean, "{sql}");
    }
    engine.close().await;
}

/// Made through the engine, functions and triggers are known at once.
#[tokio::test]
async fn what_the_engine_itself_creates_counts_at_once() {
    let lab = lab("at_once").start().await;
    let create = "CREATE FUNCTION fresh() RETURNS text LANGUAGE sql AS 'SELECT leave()'";
    let again = "CREATE OR REPLACE FUNCTION adds() RETURNS void LANGUAGE plpgsql AS \
                 $$ BEGIN SET app.tenant = 'left'; END $$";
    let trigger =
        "CREATE TRIGGER t BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION leave_row()";
    let hidden = "DO $$ BEGIN CREATE VIEW hidden AS SELECT leave(); END $$";
    for (create, sql) in [
        (create, "SELECT fresh()"),
        (again, "SELECT adds()"),
        (trigger, "INSERT INTO plain VALUES (1)"),
        (hidden, "TABLE hidden"),
    ] {
        let mut tx = lab.db.begin().await.unwrap();
        sqlx::raw_sql(create).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        for _ in 0..20 {
            leave(&lab.db, Way::Handle, sql).await.unwrap();
            let clean: bool = sqlx::query_scalar(NO_TENANT).fetch_one(&lab.db).await.unwrap();
            assert!(clean, "{sql}");
        }
    }
    lab.engine.close().await;
}

/// What is created over the bare connection, as migrations are, is known soon.
#[tokio::test]
async fn what_a_bare_connection_creates_is_found() {
    let lab = lab("bare").start().await;
    let mut lease = lab.db.acquire().await.unwrap();
    let create = "CREATE FUNCTION fresh() RETURNS text LANGUAGE sql AS 'SELECT leave()'";
    sqlx::raw_sql(create).execute(&mut *lease).await.unwrap();
    drop(lease);
    wait_until("it is known", async || {
        leave(&lab.db, Way::Handle, "SELECT fresh()").await.unwrap();
        sqlx::query_scalar(NO_TENANT).fetch_one(&lab.db).await.unwrap()
    })
    .await;
    lab.engine.close().await;
}

#[tokio::test]
async fn what_leaves_nothing_costs_one_round_trip() {
    let harmless = "CREATE FUNCTION local(who text) RETURNS text LANGUAGE plpgsql AS \
                    $$ BEGIN RETURN set_config('app.tenant', who, true); END $$; \
                    CREATE FUNCTION trusted() RETURNS void LANGUAGE plpgsql AS \
                    $$ BEGIN EXECUTE 'SELECT 1'; END $$; \
                    CREATE TABLE written (id serial, a text); \
                    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS \
                    $$ BEGIN UPDATE plain SET a = 1; NEW.a := 'x'; RETURN NEW; END $$; \
                    CREATE TRIGGER t BEFORE INSERT ON written FOR EACH ROW EXECUTE FUNCTION stamp()";
    let lab = lab("cheap")
        .sql(harmless)
        .behind_proxy()
        .config(|config| config.trusted_functions = vec!["trusted".to_owned()])
        .start()
        .await;
    for sql in [
        "SELECT local('x')",
        "SELECT trusted()",
        "INSERT INTO written (a) VALUES ('a')",
        "SELECT title FROM notes",
        "SELECT nextval('notes_id_seq')",
    ] {
        for _ in 0..2 {
            sqlx::query(sql).execute(&lab.db).await.unwrap();
        }
        let before = lab.proxy().round_trips();
        sqlx::query(sql).execute(&lab.db).await.unwrap();
        // A reset would come in between.
        sqlx::query(sql).execute(&lab.db).await.unwrap();
        assert_eq!(lab.proxy().round_trips() - before, 2, "{sql}");
    }
    lab.engine.close().await;
}
