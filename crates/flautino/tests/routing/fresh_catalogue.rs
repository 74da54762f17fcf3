//! A schema that changes while the engine runs: what the engine itself does counts at once, what
//! others do within seconds.

use std::cell::Cell;
use std::time::{Duration, Instant};

use flautino::{Access, Engine};
use flautino_cluster::Node;
use flautino_lab::{Lab, catch_up, node_of, run, wait_until, wait_until_or_tell};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Executor};

use crate::common::MAIN;

const SCHEMA: &str = "
    CREATE FUNCTION grab(int) RETURNS int LANGUAGE plpgsql VOLATILE
        AS 'BEGIN PERFORM pg_try_advisory_xact_lock(77, $1); RETURN $1; END';
    CREATE FUNCTION calm(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
    CREATE TABLE notes (id int);
    INSERT INTO notes VALUES (1);
    CREATE PROCEDURE make_views(number text) LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE 'CREATE VIEW wild_' || number || ' AS SELECT grab(id) FROM notes';
        EXECUTE 'CREATE VIEW tame_' || number || ' AS SELECT calm(id) FROM notes'; END $$;
    CREATE PROCEDURE make_nothing() LANGUAGE plpgsql AS 'BEGIN END'";

async fn lab(name: &str) -> Lab {
    let lab = Lab::named(name).replicas(1).sql(SCHEMA).start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    lab
}

const WAYS: [&str; 17] = [
    "handle",
    "values",
    "stream",
    "several",
    "remark",
    "lease",
    "lease_control",
    "lease_several",
    "transaction",
    "closure",
    "savepoint",
    "do",
    "call",
    "call_in_transaction",
    "bare",
    "bare_transaction",
    "prepared",
];

/// Makes two views in that way: one that calls a volatile function, and one that does not.
async fn make(engine: &Engine, way: &str) -> Result<(), sqlx::Error> {
    let db = &engine.handle();
    // Where the views are not committed yet, the catalogue is read in the meantime.
    let read_meanwhile = async || {
        let is_read = async || engine.access("SELECT id FROM notes") == Access::Read;
        wait_until("the catalogue is read", is_read).await;
    };
    let wild = format!("CREATE VIEW wild_{way} AS SELECT grab(id) FROM notes");
    let tame = format!("CREATE VIEW tame_{way} AS SELECT calm(id) FROM notes");
    let text = |sql: &str| AssertSqlSafe(sql.to_owned());
    let both = format!("{tame}; {wild}");
    let call = format!("CALL make_views('{way}')");
    match way {
        "handle" => {
            run(db, &tame).await?;
            run(db, &wild).await?;
        }
        "values" => {
            db.execute(sqlx::raw_sql(text(&tame))).await?;
            sqlx::query(text(&wild)).fetch_optional(db).await?;
        }
        "stream" => {
            run(db, &tame).await?;
            sqlx::query(text(&wild)).fetch(db).try_collect::<Vec<_>>().await?;
        }
        "several" => {
            sqlx::raw_sql(text(&format!("SELECT 1; {both}; SELECT 2"))).execute(db).await?;
        }
        "remark" => {
            run(db, &format!("/* SELECT */ {tame}")).await?;
            run(db, &format!("-- SELECT\n{wild}")).await?;
        }
        "lease" | "lease_several" | "lease_control" => {
            let mut lease = db.acquire().await?;
            if way == "lease_several" {
                sqlx::raw_sql(text(&both)).execute(&mut lease).await?;
                return Ok(());
            }
            let control = way == "lease_control";
            if control {
                sqlx::raw_sql("BEGIN").execute(&mut lease).await?;
            }
            sqlx::query(text(&tame)).execute(&mut lease).await?;
            sqlx::query(text(&wild)).execute(&mut lease).await?;
            if control {
                read_meanwhile().await;
                sqlx::raw_sql("COMMIT").execute(&mut lease).await?;
            }
        }
        "transaction" | "savepoint" | "call_in_transaction" => {
            let mut tx = db.begin().await?;
            if way == "call_in_transaction" {
                sqlx::query(text(&call)).execute(&mut tx).await?;
            } else if way == "savepoint" {
                let mut inner = tx.savepoint().await?;
                sqlx::raw_sql(text(&both)).execute(&mut inner).await?;
                inner.commit().await?;
            } else {
                sqlx::query(text(&tame)).execute(&mut tx).await?;
                sqlx::query(text(&wild)).execute(&mut tx).await?;
            }
            read_meanwhile().await;
            tx.commit().await?;
        }
        "closure" => {
            let work = async |tx: &mut flautino::Transaction| {
                sqlx::raw_sql(text(&both)).execute(tx).await.map(drop)
            };
            db.transaction(work).await?;
        }
        "do" => {
            run(db, &format!("DO $do$ BEGIN EXECUTE '{tame}'; EXECUTE '{wild}'; END $do$")).await?;
        }
        "call" => run(db, &call).await?,
        "bare" => {
            let mut lease = db.acquire().await?;
            sqlx::raw_sql(text(&both)).execute(&mut *lease).await?;
        }
        "bare_transaction" => {
            let mut tx = db.begin().await?;
            sqlx::raw_sql(text(&both)).execute(&mut *tx).await?;
            tx.commit().await?;
        }
        "prepared" => {
            let mut lease = db.acquire().await?;
            let prepare = format!("BEGIN; {both}; PREPARE TRANSACTION '{way}'");
            sqlx::raw_sql(text(&prepare)).execute(&mut lease).await?;
            drop(lease);
            read_meanwhile().await;
            run(db, &format!("COMMIT PREPARED '{way}'")).await?;
        }
        _ => unreachable!(),
    }
    Ok(())
}

#[tokio::test]
async fn what_the_engine_changes_counts_at_once() {
    let lab = Lab::named("at_once")
        .replicas(1)
        .setting("max_prepared_transactions", "2")
        .sql(SCHEMA)
        .start()
        .await;
    lab.until_served_by(&["read_replica_1"]).await;
    let engine = &lab.engine;
    let mut wrong = Vec::new();
    for way in WAYS {
        let plain = "SELECT id FROM notes";
        wait_until("reads are reads", async || engine.access(plain) == Access::Read).await;
        make(engine, way).await.unwrap();
        let (wild, tame) = (format!("SELECT * FROM wild_{way}"), format!("TABLE tame_{way}"));
        if engine.access(&wild) != Access::Write {
            wrong.push(format!("{way}: a read at first"));
        }
        catch_up(&lab.cluster).await;
        let other = engine.handle();
        run(&other, &wild).await.unwrap();
        if node_of(&other) != MAIN {
            wrong.push(format!("{way}: ran on {}", node_of(&other)));
        }
        let tame = tame.replace("TABLE", "SELECT * FROM");
        wait_until("what is harmless is a read", async || engine.access(&tame) == Access::Read)
            .await;
        if engine.access(&wild) != Access::Write {
            wrong.push(format!("{way}: a read once it was read"));
        }
    }
    engine.close().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What another program does, and a statement that is a write from then on. Each is a read before, and
/// stands for a way to change the catalogue.
const OTHERS: &[(&str, &str)] = &[
    ("CREATE VIEW seen AS SELECT grab(id) FROM notes", "SELECT * FROM seen"),
    (
        "CREATE OR REPLACE VIEW replaced AS SELECT grab(id) AS id FROM notes",
        "SELECT * FROM replaced",
    ),
    ("ALTER FUNCTION calm(int) VOLATILE", "SELECT calm(1)"),
    (
        "CREATE OR REPLACE FUNCTION body() RETURNS int LANGUAGE sql STABLE RETURN grab(1)",
        "SELECT body()",
    ),
    ("CREATE OPERATOR |=| (LEFTARG = int, RIGHTARG = int, FUNCTION = grab2)", "SELECT 1 |=| 1"),
    ("ALTER DOMAIN grade ADD CHECK (grab(VALUE) > 0)", "SELECT 1::grade"),
    ("CREATE CAST (int AS mark) WITH FUNCTION to_mark(int)", "SELECT 1::mark"),
    ("ALTER TABLE guarded ENABLE ROW LEVEL SECURITY", "SELECT id FROM guarded"),
    ("CREATE POLICY p ON opened USING (grab(id) > 0)", "SELECT id FROM opened"),
    ("ALTER TABLE logged SET UNLOGGED", "SELECT id FROM logged"),
    ("ALTER TABLE heir INHERIT elder", "SELECT id FROM elder"),
    ("ALTER VIEW stray RENAME TO renamed", "SELECT * FROM renamed"),
    ("ALTER TABLE widened ADD COLUMN g grabbed", "SELECT id FROM widened"),
    ("ALTER TABLE retyped ALTER COLUMN g TYPE grabbed", "SELECT id FROM retyped"),
];

#[tokio::test]
async fn what_others_change_counts_within_seconds() {
    let lab = lab("others").await;
    let more = "
        CREATE VIEW replaced AS SELECT id FROM notes;
        CREATE FUNCTION body() RETURNS int LANGUAGE sql STABLE RETURN 1;
        CREATE FUNCTION grab2(int, int) RETURNS bool LANGUAGE sql VOLATILE AS 'SELECT grab($1) = $2';
        CREATE DOMAIN grade AS int; CREATE DOMAIN grabbed AS int CHECK (grab(VALUE) > 0);
        CREATE TYPE mark AS (a int);
        CREATE FUNCTION to_mark(int) RETURNS mark LANGUAGE sql VOLATILE AS 'SELECT ROW($1)::mark';
        CREATE TABLE guarded (id int); CREATE POLICY p ON guarded USING (grab(id) > 0);
        CREATE TABLE opened (id int); ALTER TABLE opened ENABLE ROW LEVEL SECURITY;
        CREATE TABLE logged (id int); CREATE TABLE elder (id int); CREATE UNLOGGED TABLE heir (id int);
        CREATE VIEW stray AS SELECT grab(id) FROM notes;
        CREATE TABLE widened (id int); CREATE TABLE retyped (id int, g int)";
    lab.primary().execute(more).await.unwrap();
    let tell = || format!("{:#?}", lab.engine.status());
    wait_until_or_tell(
        "it is known",
        async || lab.engine.access("SELECT body()") == Access::Read,
        tell,
    )
    .await;
    // One session for all, whose statistics are sent only now and then.
    let mut session = lab.primary().connect().await.unwrap();
    for (change, sql) in OTHERS {
        // What does not exist yet reads nothing.
        if !["SELECT 1 |=| 1"].contains(sql) {
            assert_eq!(lab.engine.access(sql), Access::Read, "before {change}");
        }
        session.execute(*change).await.unwrap();
        let began = Instant::now();
        wait_until_or_tell(change, async || lab.engine.access(sql) == Access::Write, tell).await;
        // A second and a reading, on a machine that has other work.
        assert!(began.elapsed() < Duration::from_secs(30), "{change}: {:?}", began.elapsed());
    }
    lab.engine.close().await;
}

/// How often the primary was asked for the fingerprint, and for the whole catalogue.
fn readings(primary: &Node) -> (usize, usize) {
    let log = primary.log();
    (
        log.matches("AS hashes").count() + log.matches("FROM hashes").count(),
        log.matches(") AS facts").count(),
    )
}

#[tokio::test]
async fn a_schema_that_stays_is_not_read_again_whatever_else_goes_on() {
    let lab =
        Lab::named("stays").replicas(1).setting("log_statement", "all").sql(SCHEMA).start().await;
    lab.until_served_by(&["read_replica_1"]).await;
    let (_, before) = readings(lab.primary());
    let mut session = lab.primary().connect().await.unwrap();
    let busy = "CREATE TEMP TABLE scratch (id int PRIMARY KEY, g text DEFAULT 'x') ON COMMIT DROP;
        CREATE TEMP VIEW looks AS SELECT * FROM scratch; INSERT INTO scratch VALUES (1);
        TRUNCATE notes; INSERT INTO notes VALUES (1); CREATE INDEX ON notes (id)";
    let (begun, _) = readings(lab.primary());
    wait_until("the primary was asked a few times more", async || {
        session.execute(busy).await.unwrap();
        session.execute("ANALYZE notes").await.unwrap();
        session.execute("VACUUM notes").await.unwrap();
        // A name that is no function, and a procedure that makes nothing.
        let _ = run(&lab.db, "SELECT * FROM notes WHERE id = ANY (ARRAY[1]) AND never_heard_of(1)")
            .await;
        run(&lab.db, "CALL make_nothing()").await.unwrap();
        readings(lab.primary()).0 >= begun + 5
    })
    .await;
    assert_eq!(readings(lab.primary()).1, before);
    lab.engine.close().await;
}

#[tokio::test]
async fn what_leaves_the_schema_alone_does_not_keep_reads_from_replicas() {
    let lab = lab("procedures").await;
    let on_replicas = Cell::new(0);
    let tell = || format!("{} reads on replicas", on_replicas.get());
    for way in ["call", "bare"] {
        on_replicas.set(0);
        let reads = async || {
            if way == "call" {
                run(&lab.db, "CALL make_nothing()").await.unwrap();
            } else {
                let mut lease = lab.db.acquire().await.unwrap();
                (&mut *lease).execute("INSERT INTO notes VALUES (2)").await.unwrap();
            }
            let reader = lab.engine.handle();
            run(&reader, "SELECT id FROM notes").await.unwrap();
            on_replicas.set(on_replicas.get() + u32::from(node_of(&reader) != MAIN));
            on_replicas.get() >= 100
        };
        wait_until_or_tell(way, reads, tell).await;
    }
    lab.engine.close().await;
}
