//! The SQL of a probe, and how its answer is read. A probe is one message and one round trip.

use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::node::{Sender, server_start};
use crate::router::{Lsn, Progress, Role, Sample, ServerId};
use crate::sqlstate::{
    FEATURE_NOT_SUPPORTED, INSUFFICIENT_PRIVILEGE, OBJECT_NOT_IN_PREREQUISITE_STATE,
    UNDEFINED_FUNCTION, sqlstate,
};

/// What every server reports: its role, and when it started.
const ROLE: &str =
    concat!("SELECT pg_is_in_recovery() AS recovers, ", server_start!(), " AS started");

/// The same as [`ROLE`], and the server's identity and progress.
///
/// - The receiver's timeline is read *after* the replay position: read before it, replay could have
///   gone on to a later timeline in between.
/// - A primary's timeline is taken from the name of its current WAL file, since the control file is
///   updated late after a promotion.
/// - For the `xid_horizon` a replica reports the lower end of its snapshot (`xmin`), and a primary
///   the upper end (`xmax`): see [`Progress::xid_horizon`].
/// - The statistics are read only from PostgreSQL 15 on. Earlier versions write all statistics to a
///   file for each reader.
const PROGRESS: &str = concat!(
    "SELECT recovers, ",
    server_start!(),
    " AS started, \
     (SELECT system_identifier FROM pg_control_system()) AS system, \
     CASE WHEN current_setting('server_version_num')::int >= 150000 \
     THEN (extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::int8 END \
     AS counts_since, \
     (CASE WHEN recovers THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text \
     AS lsn, \
     CASE WHEN NOT recovers THEN pg_walfile_name(pg_current_wal_insert_lsn()) END AS file, \
     pg_size_bytes(current_setting('wal_segment_size')) AS segment, \
     CASE WHEN recovers THEN txid_snapshot_xmin(txid_current_snapshot()) \
     ELSE txid_snapshot_xmax(txid_current_snapshot()) END AS xid_horizon, \
     CASE WHEN recovers THEN pg_is_wal_replay_paused() ELSE false END AS paused, \
     (extract(epoch FROM current_setting('recovery_min_apply_delay')::interval) * 1000)::int8 \
     AS delay_ms, \
     (SELECT min_recovery_end_lsn::text FROM pg_control_recovery()) AS control_lsn, \
     (SELECT min_recovery_end_timeline FROM pg_control_recovery()) AS control_timeline \
     FROM (SELECT pg_is_in_recovery() AS recovers OFFSET 0) AS role; \
     SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming'"
);

/// Only a primary's position, which is all that a token needs.
const POSITION: &str = "SELECT lsn::text, pg_walfile_name(lsn) AS file, \
     pg_size_bytes(current_setting('wal_segment_size')) AS segment, \
     txid_snapshot_xmax(txid_current_snapshot()) AS xid_horizon \
     FROM (SELECT pg_current_wal_insert_lsn() AS lsn OFFSET 0) AS position";

/// Only what changes of a replica's [`PROGRESS`] while it is the same server and stays in recovery;
/// whether both hold is asked too. What is old of its control file is certain all the same.
///
/// The receiver's timeline is read after the replay position, as in [`PROGRESS`]: a subquery that
/// refers to the position cannot be run before that is known.
const REPLAYED: &str = concat!(
    "SELECT recovers, ",
    server_start!(),
    " AS started, replayed.lsn::text AS lsn, \
     txid_snapshot_xmin(txid_current_snapshot()) AS xid_horizon, \
     CASE WHEN recovers THEN pg_is_wal_replay_paused() ELSE false END AS paused, \
     (SELECT received_tli FROM pg_stat_wal_receiver \
     WHERE status = 'streaming' AND replayed.lsn IS NOT NULL) AS received \
     FROM (SELECT pg_last_wal_replay_lsn() AS lsn, pg_is_in_recovery() AS recovers OFFSET 0) \
     AS replayed"
);

/// Asks a server for its position, over the connection on which it answered with `latest`. Returns
/// `None` if it does not report one, or if it is no longer what it was then.
pub(super) async fn position(
    sender: &Sender,
    connection: &mut PgConnection,
    latest: Sample,
) -> Result<Option<Sample>, sqlx::Error> {
    let Some(before) = latest.progress else { return Ok(None) };
    let question = match latest.role {
        Role::Primary => POSITION,
        Role::Replica => REPLAYED,
        Role::Unknown => return Ok(None),
    };
    let began = Instant::now();
    let row = match sender.send_prepared(connection, question).await {
        Ok(rows) => rows.into_iter().next(),
        // The server changed its role, or the database role has lost the right to ask.
        Err(sqlx::Error::Database(_)) => None,
        Err(error) => return Err(error),
    };
    let Some(row) = row else { return Ok(None) };
    let progress = match latest.role {
        Role::Primary => read_position(&row, before)?,
        _ => read_replayed(&row, before, latest.server)?,
    };
    let round_trip = began.elapsed();
    Ok(progress.map(|_| Sample { began, round_trip, progress, ..latest }))
}

/// Reads the answer to [`POSITION`].
fn read_position(row: &PgRow, before: Progress) -> Result<Option<Progress>, sqlx::Error> {
    let (Some(lsn), file) = (read_lsn(row, "lsn")?, row.try_get("file")?) else { return Ok(None) };
    Ok(Some(Progress {
        lsn: before_page_header(lsn, row.try_get("segment")?),
        xid_horizon: unsigned(row, "xid_horizon")?,
        timeline: timeline_of(file),
        ..before
    }))
}

/// Reads the answer to [`REPLAYED`].
fn read_replayed(
    row: &PgRow,
    before: Progress,
    server: ServerId,
) -> Result<Option<Progress>, sqlx::Error> {
    // Behind a pooler another server may have answered.
    let is_same = row.try_get("recovers")? && row.try_get::<i64, _>("started")? == server.started;
    let Some(lsn) = read_lsn(row, "lsn")?.filter(|_| is_same) else { return Ok(None) };
    Ok(Some(Progress {
        lsn,
        xid_horizon: unsigned(row, "xid_horizon")?,
        timeline: row.try_get::<Option<i32>, _>("received")?.and_then(timeline),
        paused: row.try_get("paused")?,
        ..before
    }))
}

/// A timeline as the server numbers it.
fn timeline(number: i32) -> Option<u32> {
    u32::try_from(number).ok().filter(|timeline| *timeline > 0)
}

/// A column with a position, which is empty if there is none.
fn read_lsn(row: &PgRow, column: &str) -> Result<Option<Lsn>, sqlx::Error> {
    let text: Option<&str> = row.try_get(column)?;
    // PostgreSQL writes 0/0 for "no position".
    Ok(text.and_then(|text| text.parse().ok()).filter(|lsn| *lsn != Lsn(0)))
}

/// The timeline in the name of a WAL file: its first eight digits.
fn timeline_of(file: &str) -> Option<u32> {
    u32::from_str_radix(file.get(..8)?, 16).ok()
}

/// The errors of a server that lacks the functions of [`PROGRESS`], or that does not let the role
/// call them. Aurora's writer says 55000 where logical replication is off.
const NO_PROGRESS: [&str; 4] = [
    INSUFFICIENT_PRIVILEGE,
    UNDEFINED_FUNCTION,
    FEATURE_NOT_SUPPORTED,
    OBJECT_NOT_IN_PREREQUISITE_STATE,
];

/// If an insert position is just after the header of an empty WAL page, returns the position before
/// the header, which is as far as a standby can replay. The header of a page has 24 bytes, that of
/// a segment's first page 40.
fn before_page_header(lsn: Lsn, segment: i64) -> Lsn {
    const PAGE: u64 = 8192;
    let segment = u64::try_from(segment).ok().filter(|size| *size > 0).unwrap_or(u64::MAX);
    match lsn.0 {
        at if at % segment == 40 => Lsn(at - 40),
        at if at % PAGE == 24 => Lsn(at - 24),
        at => Lsn(at),
    }
}

/// Sends a whole probe.
pub(super) async fn sample(
    sender: &Sender,
    connection: &mut PgConnection,
) -> Result<Sample, sqlx::Error> {
    let began = Instant::now();
    match sender.send(connection, PROGRESS.to_owned()).await {
        Ok(rows) => read(&rows, began),
        // Aurora lacks some of these functions, and an administrator may have revoked the right to
        // call them.
        Err(error) if sqlstate(&error).is_some_and(|code| NO_PROGRESS.contains(&&*code)) => {
            tracing::debug!(node = %sender.name, %error, "the server does not report its position");
            let rows = sender.send(connection, ROLE.to_owned()).await?;
            read(&rows, began)
        }
        Err(error) => Err(error),
    }
}

fn read(rows: &[PgRow], began: Instant) -> Result<Sample, sqlx::Error> {
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let role = if row.try_get("recovers")? { Role::Replica } else { Role::Primary };
    let mut server =
        ServerId { system: None, started: row.try_get("started")?, counts_since: None };
    let mut progress = None;
    if row.try_column("lsn").is_ok() {
        server.system = row.try_get::<Option<i64>, _>("system")?.map(i64::cast_unsigned);
        server.counts_since = row.try_get("counts_since")?;
        progress = read_progress(row, role, rows.get(1))?;
    }
    Ok(Sample { began, round_trip: began.elapsed(), role, server, progress })
}

fn read_progress(
    row: &PgRow,
    role: Role,
    receiver: Option<&PgRow>,
) -> Result<Option<Progress>, sqlx::Error> {
    let Some(mut own) = read_lsn(row, "lsn")? else { return Ok(None) };
    if role == Role::Primary {
        own = before_page_header(own, row.try_get("segment")?);
    }
    let file: Option<&str> = row.try_get("file")?;
    let received: Option<i32> =
        receiver.map(|row| row.try_get("received_tli")).transpose()?.flatten();
    let control: Option<i32> = row.try_get("control_timeline")?;
    Ok(Some(Progress {
        lsn: own,
        xid_horizon: unsigned(row, "xid_horizon")?,
        timeline: file.and_then(timeline_of).or(received.and_then(timeline)),
        control: control.and_then(timeline).zip(read_lsn(row, "control_lsn")?),
        paused: row.try_get("paused")?,
        apply_delay: Duration::from_millis(unsigned(row, "delay_ms")?),
    }))
}

/// A column whose number is never negative.
fn unsigned(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(row.try_get::<i64, _>(column)?.max(0).cast_unsigned())
}
