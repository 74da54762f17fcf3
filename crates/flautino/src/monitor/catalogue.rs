//! What the classifier wants to know of the server's catalogue, and when it is read.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, Row};
use tokio::sync::Notify;

use super::{ClusterState, Monitor};
use crate::backoff::Backoff;
use crate::error::timed_out;
use crate::node::{Node, Sender, Server};
use crate::sql::{Catalogue, HARMLESS, SERVER_VIEWS};
use crate::sqlstate::server_keeps_session;

/// How often the catalogue is read again without being asked to: functions and views change
/// through other programs too.
const READ_INTERVAL: Duration = Duration::from_secs(300);
/// After which pause it is asked for again when the node was not there.
const RETRY: Duration = Duration::from_secs(1);
/// How often at most it is read when statements ask for it. Also the first pause where the server
/// refused, or needed too long; that is doubled each time, up to [`READ_INTERVAL`].
const MIN_PAUSE: Duration = Duration::from_secs(5);
/// How long reading it may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Rows of a kind and a name: every function, the volatile ones, what is volatile wherever it
/// stands, operators.
///
/// Things carry a mark, under which the stored expressions of others refer to them. A view, a table
/// with policies, a domain, a default of a function's argument is volatile when its expression
/// refers to what is: a volatile function, an operator or an aggregate of one, a relation that
/// describes one server, that a standby does not have (unlogged), that leads elsewhere (foreign), or
/// whose log runs ahead of it (sequences). So is a type, when a cast to it calls one. Expressions are
/// read as text, since `pg_depend` leaves out the functions that come with PostgreSQL, and `pg_proc`
/// calls every aggregate immutable.
///
/// One message is one transaction, and `LOCAL` ends with it: behind PgBouncer the session is other
/// clients' as well.
const CATALOGUE: &str = "SET LOCAL statement_timeout = {timeout}; WITH RECURSIVE
    simple AS MATERIALIZED (
        SELECT p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.provolatile = 'v' AND p.prokind <> 'p'
        AND NOT ((p.oid < 16384 OR l.lanname = 'c') AND p.proname = ANY (ARRAY[{harmless}]))
    ),
    volatile AS MATERIALIZED (
        SELECT oid FROM simple
        UNION
        SELECT aggfnoid::oid FROM pg_aggregate
        WHERE ARRAY[aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn, aggmtransfn,
            aggminvtransfn, aggmfinalfn]::oid[] && ARRAY(SELECT oid FROM simple)
    ),
    stored AS (
        SELECT 'relid ' || c.oid AS mark, c.relname AS name, r.ev_action::text AS expression
        FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE c.relkind = 'v'
        UNION ALL
        SELECT 'relid ' || c.oid, c.relname, concat(polqual::text, polwithcheck::text)
        FROM pg_policy JOIN pg_class c ON c.oid = polrelid
        UNION ALL
        SELECT 'resulttype ' || t.oid, t.typname, k.conbin::text
        FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid
        UNION ALL
        SELECT 'funcid ' || oid, proname, proargdefaults::text
        FROM pg_proc WHERE oid >= 16384 AND proargdefaults IS NOT NULL
        UNION ALL
        SELECT NULL, t.typname, ':funcid ' || k.castfunc::oid || ' '
        FROM pg_cast k JOIN pg_type t ON t.oid = k.casttarget WHERE k.oid >= 16384
    ),
    refers AS MATERIALIZED (
        SELECT s.mark, s.name,
            CASE WHEN found[1] IN ('relid', 'resulttype') THEN found[1] ELSE 'funcid' END
                || ' ' || found[2] AS to_mark
        FROM stored s, regexp_matches(s.expression,
            ':(funcid|opfuncid|aggfnoid|winfnoid|relid|resulttype) ([0-9]+)', 'g') AS found
    ),
    tainted AS (
        SELECT 'funcid ' || oid AS mark, NULL::name AS name FROM volatile
        UNION
        SELECT 'relid ' || oid, relname FROM pg_class
        WHERE relkind IN ('f', 'S') OR (relpersistence = 'u' AND relkind IN ('r', 'p', 'm'))
            OR (oid < 16384 AND relkind = 'v' AND relname ~ '{server}')
        UNION
        SELECT r.mark, r.name FROM refers r JOIN tainted t ON t.mark = r.to_mark
    )
    SELECT DISTINCT 'f', proname::text FROM pg_proc WHERE prokind <> 'p'
    UNION ALL SELECT DISTINCT 'v', p.proname::text FROM volatile v JOIN pg_proc p ON p.oid = v.oid
    UNION ALL SELECT DISTINCT 'a', p.proname::text FROM volatile v JOIN pg_proc p ON p.oid = v.oid
        WHERE p.oid >= 16384 AND p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
    UNION ALL SELECT DISTINCT 'a', name::text FROM tainted WHERE name IS NOT NULL
    UNION ALL SELECT DISTINCT 'o', o.oprname::text
    FROM pg_operator o JOIN volatile v ON v.oid = o.oprcode";

/// Reads it; the server gives up after `timeout`.
async fn read(
    sender: &Sender,
    connection: &mut PgConnection,
    timeout: Duration,
) -> Result<Catalogue, sqlx::Error> {
    let harmless: Vec<_> = HARMLESS.iter().map(|name| format!("'{name}'")).collect();
    let sql = CATALOGUE
        .replace("{timeout}", &timeout.as_millis().to_string())
        .replace("{harmless}", &harmless.join(", "))
        .replace("{server}", &format!("^(?:{}|pg_stat_.*|pg_statio_.*)$", SERVER_VIEWS.join("|")));
    let mut catalogue = Catalogue::default();
    for row in sender.send(connection, sql).await? {
        let (kind, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let name: Box<str> = name.into();
        match kind {
            "f" => catalogue.functions.insert(name),
            "v" => catalogue.volatile.insert(name),
            "a" => catalogue.anywhere.insert(name),
            _ => {
                catalogue.operators.push(name);
                true
            }
        };
    }
    catalogue.operators.sort();
    Ok(catalogue)
}

impl Monitor {
    /// Reads the catalogue from the primary, or where that does not answer from a replica, which may know
    /// less: what it does not know goes to the primary. Returns when it is to be read again.
    pub(super) async fn read_catalogue(&self) -> Next {
        let ClusterState { nodes, snapshot } = &*self.state().clone();
        let others = (0..nodes.len()).filter(|number| {
            let node = &snapshot.nodes[*number];
            Some(*number) != snapshot.primary && node.up && node.excluded.is_none()
        });
        for number in snapshot.primary.into_iter().chain(others) {
            let node = &nodes[number];
            // The server gives up by itself; this is for one that does not answer.
            let reading = tokio::time::timeout(TIMEOUT * 2, read_from(&node.server));
            let error = match reading.await {
                Ok(Ok(catalogue)) => {
                    if self.classifier.learn(catalogue) {
                        tracing::debug!(node = %node.name(), "the catalogue of functions was read");
                    }
                    return Next::WhenWanted;
                }
                Ok(Err(error)) => error,
                Err(_) => timed_out("no answer in time"),
            };
            tracing::warn!(
                node = %node.name(), %error,
                "the catalogue of functions could not be read; calls of functions it does not list \
                 go to the primary"
            );
            // One that is too large, or that this role may not read, is asked for ever more rarely.
            if server_keeps_session(&error) {
                return Next::Later;
            }
        }
        Next::Soon
    }

    /// Reads the catalogue whenever it is asked for, but not too often; and now and then.
    pub(super) fn keep_reading_catalogue(
        self: &Arc<Self>,
        next: Next,
    ) -> impl Future<Output = ()> + Send + use<> {
        keep_reading(Arc::downgrade(self), Arc::clone(&self.catalogue_wanted), next)
    }

    /// Reads the catalogue of the only node, which is not kept, unless that was done a moment ago.
    /// Returns whether it is known now, within the node's `acquire_timeout`.
    pub(crate) async fn refresh_catalogue(&self, node: &Node) -> bool {
        let asked = Instant::now();
        let reading = async {
            // All who ask at the time share one reading, also where that fails.
            let mut last = self.catalogue_read.lock().await;
            match *last {
                Some((at, known)) if at >= asked || (known && at.elapsed() < MIN_PAUSE) => {
                    return known;
                }
                _ => {}
            }
            let known = match tokio::time::timeout(node.acquire_timeout(), read_from(&node.server))
                .await
            {
                Ok(Ok(catalogue)) => {
                    self.classifier.learn(catalogue);
                    true
                }
                outcome => {
                    tracing::debug!(node = %node.name(), ?outcome, "the catalogue could not be read");
                    false
                }
            };
            *last = Some((Instant::now(), known));
            known
        };
        tokio::time::timeout(node.acquire_timeout(), reading).await.unwrap_or_default()
    }
}

/// Read over a connection of its own, since it may take longer than a probe.
async fn read_from(server: &Server) -> Result<Catalogue, sqlx::Error> {
    let mut connection = server.connect_beside("flautino monitor").await?;
    let catalogue = read(&server.sender, &mut connection, TIMEOUT).await?;
    let _ = connection.close().await;
    Ok(catalogue)
}

/// When the catalogue is to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    WhenWanted,
    /// Its node was not there.
    Soon,
    /// The server refused.
    Later,
}

async fn keep_reading(monitor: Weak<Monitor>, wanted: Arc<Notify>, mut next: Next) {
    let mut backoff = Backoff::new(MIN_PAUSE, READ_INTERVAL);
    loop {
        match next {
            Next::Soon => tokio::time::sleep(RETRY).await,
            Next::Later => tokio::time::sleep(backoff.next_pause()).await,
            Next::WhenWanted => {
                backoff = Backoff::new(MIN_PAUSE, READ_INTERVAL);
                tokio::time::sleep(MIN_PAUSE).await;
                let _ = tokio::time::timeout(READ_INTERVAL, wanted.notified()).await;
            }
        }
        let Some(monitor) = monitor.upgrade() else { return };
        next = monitor.read_catalogue().await;
    }
}
