use super::*;

struct Nobody;

impl Names for Nobody {
    fn called(&mut self, _: &str) {}
    fn mentioned(&mut self, _: &str) {}
}

fn body(text: &str) -> Effects {
    scan(text, TextKind::Body, &mut Nobody).effects
}

fn statement(text: &str) -> Effects {
    scan(text, TextKind::Statement, &mut Nobody).effects
}

#[test]
fn a_body_that_may_leave_something_is_found() {
    for text in [
        "BEGIN PERFORM set_config('app.tenant', $1, false); END",
        "SELECT pg_catalog.\"set_config\"('a', 'b', false)",
        "SELECT set_config('a', set_config('b', 'c', false), true)",
        "SELECT set_config('a', 'b', local)",
        "SELECT set_config('a', 'b', not true)",
        "SET app.tenant = 'x'",
        "begin set work_mem = '1MB'; end",
        "if a then SET ROLE x; end if",
        "/* */ Set Session work_mem = 1",
        "BEGIN x := 1; RESET ALL; END",
        "CREATE TEMP TABLE t (a int)",
        "create local temporary view v as select 1",
        "SELECT 1 AS a INTO TEMP t",
        "INSERT INTO pg_temp.t VALUES (1)",
        "BEGIN LISTEN news; END",
        "PREPARE p AS SELECT 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "BEGIN EXECUTE format('SET %I = 1', a); END",
        "SELECT query_to_xml(q, true, true, '')",
        "PERFORM pg_advisory_lock(1)",
        "SELECT U&\"set\\005fconfig\"('a', 'b', false)",
    ] {
        assert!(body(text).any(Effects::CHANGES), "{text}");
    }
}

#[test]
fn a_body_that_leaves_nothing_is_not() {
    for text in [
        "BEGIN PERFORM set_config('app.tenant', $1, true); END",
        "select SET_CONFIG('a', coalesce(b, 'c'), True)",
        "UPDATE t SET a = 1 WHERE b = 2",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = excluded.a",
        "begin update only t as x set a = 1; return new; end",
        "SET LOCAL work_mem = '1MB'",
        "BEGIN SET CONSTRAINTS ALL DEFERRED; END",
        "SELECT 'SET x = 1; EXECUTE y' -- set_config(a, b, false)",
        "PERFORM pg_advisory_xact_lock(1)",
        "SELECT nextval('s')",
        "NEW.changed := now(); RETURN NEW",
    ] {
        assert!(!body(text).any(Effects::CHANGES | Effects::SPOILS), "{text}");
    }
}

#[test]
fn what_no_reset_takes_away_is_found() {
    for text in [
        "SELECT pg_create_physical_replication_slot('a', true, true)",
        "select * from PG_COPY_LOGICAL_REPLICATION_SLOT('a', 'b', true)",
        "SELECT pg_catalog.pg_replication_origin_session_setup('a')",
        "SELECT x.isn_weak FROM generate_series(1, 1) AS x",
        "LOAD 'auto_explain'",
        "SELECT 1; load 'x'",
        "DO $$ BEGIN PERFORM isn_weak(true); END $$",
        "do $a$ begin load 'x'; end $a$",
        "SELECT dblink_connect('a', 'dbname=x')",
    ] {
        assert!(statement(text).any(Effects::SPOILS), "{text}");
    }
    assert!(!statement("SELECT load, isn_weak FROM t").any(Effects::SPOILS));
}

#[test]
fn what_holds_something_for_as_long_as_the_session_is_found() {
    for text in [
        "SELECT pg_advisory_lock(1)",
        "select PG_TRY_ADVISORY_LOCK (1, 2)",
        "SELECT \"pg_advisory_lock_shared\"(1)",
        "SELECT pg_catalog.pg_advisory_unlock(1)",
        "SELECT 1; SELECT pg_advisory_unlock_all()",
        "CREATE TABLE t (); SELECT pg_advisory_lock(1)",
        "SELECT a.pg_advisory_lock FROM generate_series(1, 1) AS a",
        "INSERT INTO t SELECT 1 WHERE pg_try_advisory_lock(1)",
        "LISTEN news",
        "select 1; listen news",
    ] {
        assert!(statement(text).any(Effects::HOLDS), "{text}");
    }
    for text in [
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
        "SELECT 'pg_advisory_lock(1)', pg_advisory_lock FROM t",
        "UNLISTEN *",
        "NOTIFY news",
        "CREATE FUNCTION f() RETURNS void AS $$ SELECT pg_advisory_lock(1) $$ LANGUAGE sql",
        "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC SELECT 1; SELECT pg_advisory_lock(1); END",
        "SELECT listen FROM t",
    ] {
        assert!(!statement(text).any(Effects::HOLDS), "{text}");
    }
}

#[test]
fn what_alters_functions_triggers_and_views_is_found() {
    for text in [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "create or replace view v as select 1",
        "ALTER TABLE t ENABLE TRIGGER x",
        "select 1; create trigger x after insert on t execute function f()",
        "DO $$ BEGIN CREATE TABLE t (a int DEFAULT f()); END $$",
    ] {
        assert!(statement(text).any(Effects::ALTERS), "{text}");
    }
    for text in [
        "CREATE TEMP TABLE t (a int)",
        "create or replace local temporary view v as select 1",
        "DROP TABLE t",
        "SELECT replace(a, 'b', 'c') FROM create_t",
        "INSERT INTO t VALUES (1)",
    ] {
        assert!(!statement(text).any(Effects::ALTERS), "{text}");
    }
}

#[test]
fn sequences_are_followed() {
    for text in ["SELECT lastval()", "select \"currval\"('s')", "select pg_catalog.lastval ()"] {
        assert!(statement(text).any(Effects::ASKS), "{text}");
    }
    for text in ["SELECT nextval('s')", "insert into t values (1)", "COPY t FROM STDIN"] {
        assert!(statement(text).any(Effects::ADVANCES), "{text}");
    }
    let plain = statement("SELECT lastval, currval FROM t WHERE a = $1");
    assert_eq!(plain, Effects::NONE);
}
