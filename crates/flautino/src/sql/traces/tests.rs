use super::*;

fn traces(rows: &[[&str; 5]]) -> Traces {
    let trusted =
        Trusted { functions: vec!["audited".to_owned()], languages: vec!["plv8".to_owned()] };
    let mut objects = Objects::default();
    rows.iter().for_each(|row| objects.add(*row, &trusted));
    objects.traces()
}

fn function<'a>(mark: &'a str, name: &'a str, body: &'a str) -> [&'a str; 5] {
    ["function", mark, name, body, "plpgsql"]
}

fn link<'a>(how: &'a str, from: &'a str, to: &'a str) -> [&'a str; 5] {
    [how, from, to, "", ""]
}

const LEAVES: &str = "begin perform set_config('app.tenant', 'a', false); end";

#[test]
fn a_call_does_what_the_body_does_and_what_the_body_calls() {
    let traces = traces(&[
        function("f1", "leaves", LEAVES),
        function("f2", "calls", "begin perform leaves(); end"),
        function("f3", "calls_too", "begin return public.\"calls\"(); end"),
        function("f4", "harmless", "begin return 1; end"),
    ]);
    for sql in
        ["SELECT leaves()", "select calls ()", "SELECT x.calls_too FROM x", "SELECT \"leaves\"()"]
    {
        assert!(traces.effects(sql).any(Effects::CHANGES), "{sql}");
    }
    for sql in ["SELECT harmless()", "SELECT leaves FROM t", "SELECT 'leaves()'"] {
        assert_eq!(traces.effects(sql), Effects::NONE, "{sql}");
    }
}

#[test]
fn a_trigger_counts_for_writes_to_its_table_and_a_view_for_reads() {
    let traces = traces(&[
        function("f1", "leaves", LEAVES),
        function("f2", "adds", "begin insert into notes values (1); end"),
        function("f3", "counts", "begin return (select count(*) from notes); end"),
        ["object", "r1", "notes", "", ""],
        ["object", "r2", "seen", "", ""],
        ["object", "r3", "parent", "", ""],
        link("writes", "r1", "f1"),
        link("uses", "r2", "f1"),
        link("writes", "r3", "r1"),
    ]);
    for sql in [
        "INSERT INTO notes VALUES (1)",
        "with a as (delete from public.notes returning 1) select * from a",
        "SELECT * FROM seen",
        "UPDATE parent SET a = 1",
        "SELECT adds()",
    ] {
        assert!(traces.effects(sql).any(Effects::CHANGES), "{sql}");
    }
    for sql in ["SELECT * FROM notes", "SELECT counts()", "SELECT * FROM parent"] {
        assert!(!traces.effects(sql).any(Effects::CHANGES), "{sql}");
    }
}

#[test]
fn what_cannot_be_read_is_in_doubt_unless_it_is_trusted() {
    let dynamic = "begin execute format('…'); end";
    let traces = traces(&[
        function("f1", "dynamic", dynamic),
        function("f2", "audited", dynamic),
        ["function", "f3", "perl", "return 1", "plperl"],
        ["function", "f4", "shared", "$_SHARED{a} = 1", "plperl"],
        ["function", "f5", "js", "return 1", "plv8"],
    ]);
    assert!(traces.effects("SELECT dynamic()").any(Effects::CHANGES));
    assert!(traces.effects("SELECT perl()").any(Effects::CHANGES));
    assert!(!traces.effects("SELECT perl()").any(Effects::SPOILS));
    assert!(traces.effects("SELECT shared()").any(Effects::SPOILS));
    assert_eq!(traces.effects("SELECT audited()"), Effects::NONE);
    assert_eq!(traces.effects("SELECT js()"), Effects::NONE);
}

#[test]
fn event_triggers_count_for_definitions_and_operators_anywhere() {
    let of = |kind| traces(&[function("f1", "leaves", LEAVES), [kind, "f1", "", "", ""]]);
    assert!(of("event").effects("CREATE TABLE t (a int)").any(Effects::CHANGES));
    assert!(!of("event").effects("INSERT INTO t VALUES (1)").any(Effects::CHANGES));
    assert!(of("anywhere").effects("SELECT 1").any(Effects::CHANGES));
}

#[test]
fn a_function_holds_a_lock_unless_it_gives_it_back() {
    let traces = traces(&[
        function("f1", "grab", "begin perform pg_advisory_lock(1); end"),
        function("f2", "grabs", "begin perform grab(); end"),
        function("f3", "guarded", "begin perform grab(); perform pg_advisory_unlock(1); end"),
        ["object", "r1", "notes", "", ""],
        link("writes", "r1", "f1"),
    ]);
    assert_eq!(traces.holds("SELECT grab()").as_deref(), Some("grab"));
    assert_eq!(traces.holds("SELECT 1; SELECT grabs()").as_deref(), Some("grabs"));
    let own = "SELECT a, pg_try_advisory_lock(a) FROM t";
    assert_eq!(traces.holds(own).as_deref(), Some("pg_try_advisory_lock"));
    assert_eq!(traces.holds("listen news").as_deref(), Some("LISTEN"));
    for sql in ["SELECT guarded()", "INSERT INTO notes VALUES (1)", "SELECT 1"] {
        assert_eq!(traces.holds(sql), None, "{sql}");
    }
}

#[test]
fn before_the_catalogue_is_known_everything_is_in_doubt() {
    assert!(Traces::default().effects("SELECT 1").any(Effects::CHANGES));
    assert!(traces(&[]).outdated().effects("SELECT 1").any(Effects::CHANGES));
    assert_eq!(traces(&[]).effects("SELECT 1"), Effects::NONE);
}
