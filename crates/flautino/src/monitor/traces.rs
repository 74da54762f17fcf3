//! Reads what functions, triggers and views leave in a session, from the server's catalogue, and decides
//! when to read it again.
//!
//! It is read when the engine opens, after each statement of the engine that may change it, and every
//! [`READ_INTERVAL`], since other programs change it too. Engines of one node need it as well.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, Row};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Monitor;
use crate::backoff::Backoff;
use crate::error::timed_out;
use crate::node::{Node, Server};
use crate::sql::{Objects, functions_pattern};

/// How often it is read without a request. So long, a function that another program has made may leave
/// something in a session unnoticed.
const READ_INTERVAL: Duration = Duration::from_secs(60);
/// The least time between two readings.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// After a reading, so many times as long as it took pass before the next one.
const MAX_SHARE: u32 = 4;
/// The first and the longest pause before the next attempt when it could not be read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long after a request it is read once more: a statement that was dropped half-way may have ended a
/// little later.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Returns rows for [`Objects::add`]: a kind, and up to four texts.
///
/// Marks such as `f42` name objects: a function, a relation or a type by its OID. Stored expressions
/// (views, rules, policies, defaults, checks, index expressions, SQL bodies) name what they use by OID
/// too, as numbers behind keys such as `funcid`; splitting their texts at the keys takes half the time of
/// a regular expression. Objects of PostgreSQL's own are left out (their OIDs are below 16384), except
/// for the functions that the pattern lists.
///
/// All is sent in one message, which is one transaction, so that `SET LOCAL` ends with it.
const TRACES: &str = "SET LOCAL statement_timeout = {timeout}; SET LOCAL jit = off; WITH
    known AS MATERIALIZED (
        SELECT p.oid, p.proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE l.lanname IN ('internal', 'c') AND p.proname ~ '{pattern}'
    ),
    stored AS MATERIALIZED (
        SELECT CASE ev_type WHEN '1' THEN 'uses' ELSE 'writes' END AS kind, 'r' || ev_class AS mark,
            concat(ev_action::text, ev_qual::text) AS expression
        FROM pg_rewrite WHERE ev_class >= 16384
        UNION ALL
        SELECT 'uses', 'r' || polrelid, concat(polqual::text, polwithcheck::text) FROM pg_policy
        UNION ALL
        SELECT 'writes', 'r' || adrelid, adbin::text FROM pg_attrdef
        UNION ALL
        SELECT 'writes', 'r' || conrelid, conbin::text
        FROM pg_constraint WHERE conbin IS NOT NULL AND conrelid >= 16384
        UNION ALL
        SELECT 'uses', 't' || contypid, conbin::text
        FROM pg_constraint WHERE conbin IS NOT NULL AND contypid >= 16384
        UNION ALL
        SELECT 'writes', 'r' || tgrelid, tgqual::text FROM pg_trigger WHERE tgqual IS NOT NULL
        UNION ALL
        SELECT 'writes', 'r' || indrelid, concat(indexprs::text, indpred::text)
        FROM pg_index WHERE indrelid >= 16384 AND (indexprs IS NOT NULL OR indpred IS NOT NULL)
        UNION ALL
        SELECT 'runs', 'f' || oid, concat(proargdefaults::text, to_jsonb(p) ->> 'prosqlbody')
        FROM pg_proc p
        WHERE oid >= 16384 AND prokind <> 'a' AND (proargdefaults IS NOT NULL OR prosrc = '')
    ),
    refers AS (
        SELECT DISTINCT s.kind, s.mark, part.kind AS to_kind,
            substring(left(piece, 10) FROM '^[0-9]+')::bigint AS to_oid
        FROM stored s, (VALUES ('funcid ', 'f'), ('fnoid ', 'f'), ('relid ', 'r'),
            ('resulttype ', 't')) AS part (key, kind),
            unnest((string_to_array(s.expression, part.key))[2:]) AS piece
    )
    SELECT 'function', 'f' || p.oid, p.proname::text, p.prosrc, l.lanname::text
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.oid >= 16384 AND (l.lanname NOT IN ('internal', 'c') OR p.prokind = 'a')
    UNION ALL SELECT 'known', 'f' || oid, proname::text, '', '' FROM known
    UNION ALL SELECT 'object', 'r' || oid, relname::text, '', ''
    FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL SELECT 'object', 't' || t.oid, t.typname::text, '', ''
    FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.oid >= 16384 AND (t.typtype IN ('d', 'r', 'm') OR c.relkind = 'c')
    UNION ALL SELECT 'event', 'f' || evtfoid, '', '', '' FROM pg_event_trigger
    UNION ALL SELECT 'anywhere', 'f' || oid, '', '', '' FROM (
        SELECT oprcode::oid FROM pg_operator UNION SELECT castfunc FROM pg_cast
        UNION SELECT amproc::oid FROM pg_amproc
    ) AS implied (oid) WHERE oid >= 16384
    UNION ALL SELECT kind, mark, to_kind || to_oid, '', ''
    FROM refers WHERE to_oid >= 16384 OR to_oid IN (SELECT oid FROM known)
    UNION ALL SELECT 'writes', 'r' || tgrelid, 'f' || tgfoid, '', ''
    FROM pg_trigger WHERE tgfoid >= 16384
    UNION ALL SELECT 'writes', 'r' || confrelid, 'r' || conrelid, '', ''
    FROM pg_constraint WHERE contype = 'f'
    AND (confupdtype IN ('c', 'n', 'd') OR confdeltype IN ('c', 'n', 'd'))
    UNION ALL SELECT 'writes', 'r' || inhparent, 'r' || inhrelid, '', '' FROM pg_inherits
    UNION ALL SELECT 'writes', 'r' || attrelid, 't' || atttypid, '', ''
    FROM pg_attribute WHERE attrelid >= 16384 AND atttypid >= 16384 AND attnum > 0
    UNION ALL SELECT 'uses', 't' || oid, 't' || part, '', ''
    FROM pg_type, unnest(ARRAY[typbasetype, typelem]) AS part WHERE part >= 16384
    UNION ALL SELECT 'runs', 't' || t.oid, 'r' || t.typrelid, '', ''
    FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid WHERE c.relkind = 'c' AND t.oid >= 16384
    UNION ALL SELECT 'runs', 'f' || p.oid, 't' || part, '', ''
    FROM pg_proc p, unnest(p.proargtypes::oid[] || p.prorettype) AS part
    WHERE p.oid >= 16384 AND part >= 16384
    UNION ALL SELECT 'runs', 'f' || aggfnoid::oid, 'f' || part, '', ''
    FROM pg_aggregate, unnest(ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn,
        aggmtransfn, aggminvtransfn, aggmfinalfn]::oid[]) AS part
    WHERE aggfnoid::oid >= 16384 AND part >= 16384";

impl Monitor {
    /// Reads the traces over this connection. If the server does not let that be done, statements are in
    /// doubt, and the connection of each is reset.
    pub(crate) async fn read_traces(&self, server: &Server, connection: &mut PgConnection) -> bool {
        let tracer = self.classifier.tracer();
        let events = tracer.events();
        let reading = async {
            let sql = TRACES
                .replace("{timeout}", &TIMEOUT.as_millis().to_string())
                .replace("{pattern}", &functions_pattern());
            let mut objects = Objects::default();
            for row in server.sender.send(connection, sql).await? {
                let text = |index| row.try_get::<&str, usize>(index);
                let row = [text(0)?, text(1)?, text(2)?, text(3)?, text(4)?];
                objects.add(row, &tracer.trusted);
            }
            Ok(objects)
        };
        let read = tokio::time::timeout(TIMEOUT * 2, reading).await;
        match read.unwrap_or_else(|_| Err(timed_out("no answer in time"))) {
            Ok(objects) => tracer.learn(objects.traces(), events),
            Err(error) => warn(server, &error),
        }
        tracer.is_current()
    }

    /// Goes on reading them until [`stop`](Self::stop).
    pub(crate) fn keep_reading_traces(self: &Arc<Self>) {
        let stop = CancellationToken::new();
        let going_on = Arc::new(());
        let guard = stop.clone().drop_guard();
        *self.traces.running.lock() = Some((guard, Arc::downgrade(&going_on)));
        let (monitor, wanted) = (Arc::downgrade(self), Arc::clone(&self.traces.wanted));
        self.nodes()[0].spawn(async move {
            stop.run_until_cancelled(keep_reading(monitor, wanted)).await;
            drop(going_on);
        });
    }

    /// Reads them for the first time and goes on, if that is not done yet: an engine over a pool is never
    /// opened. Takes at most the node's `acquire_timeout`.
    pub(crate) async fn ensure_traces(self: &Arc<Self>, node: &Node) {
        if self.traces.is_running() || node.pool().is_err() {
            return;
        }
        let reading = async {
            let _first = self.traces.first.lock().await;
            if !self.traces.is_running() {
                self.read_traces_beside(node).await;
                self.keep_reading_traces();
            }
        };
        let _ = tokio::time::timeout(node.acquire_timeout(), reading).await;
    }

    /// Reads them over a connection of its own, so that no caller waits for that. Returns whether they
    /// are current now.
    async fn read_traces_beside(&self, node: &Node) -> bool {
        let connecting = node.server.connect_beside("flautino traces");
        let connected = tokio::time::timeout(TIMEOUT, connecting).await;
        match connected.unwrap_or_else(|_| Err(timed_out("no connection in time"))) {
            Ok(mut connection) => {
                let is_current = self.read_traces(&node.server, &mut connection).await;
                let _ = connection.close().await;
                is_current
            }
            Err(error) => {
                warn(&node.server, &error);
                false
            }
        }
    }
}

fn warn(server: &Server, error: &sqlx::Error) {
    tracing::warn!(
        node = %server.name(), %error,
        "what functions and triggers leave in a session could not be read; until it is, every \
         connection is reset after its statement"
    );
}

async fn keep_reading(monitor: Weak<Monitor>, wanted: Arc<Notify>) {
    let mut backoff = Backoff::new(RETRY_PAUSE, READ_INTERVAL);
    let mut next = match monitor.upgrade() {
        Some(monitor) if monitor.classifier.tracer().is_current() => READ_INTERVAL,
        // The main node did not answer `open`.
        _ => MIN_PAUSE,
    };
    loop {
        let is_wanted = tokio::time::timeout(next, wanted.notified()).await.is_ok();
        let Some(monitor) = monitor.upgrade() else { return };
        let node = Arc::clone(monitor.state().writer());
        let began = Instant::now();
        let events = monitor.classifier.tracer().events();
        let is_current = monitor.read_traces_beside(&node).await;
        let took = began.elapsed();
        // What changed meanwhile asks for itself; only what failed is tried again.
        let failed = !is_current && monitor.classifier.tracer().events() == events;
        drop(monitor);
        next = match (failed, is_wanted) {
            (true, _) => backoff.next_pause(),
            (false, true) => AGAIN_AFTER,
            (false, false) => READ_INTERVAL,
        };
        if !failed {
            backoff = Backoff::new(RETRY_PAUSE, READ_INTERVAL);
        }
        tokio::time::sleep(MIN_PAUSE.max(took * MAX_SHARE)).await;
    }
}
