//! Reads the server's catalogue for the classifier, and decides when to read it again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, Row};
use tokio::sync::Notify;

use super::{ClusterState, Monitor};
use crate::backoff::Backoff;
use crate::error::timed_out;
use crate::node::{Node, Sender, Server};
use crate::sql::{Builtin, Catalogue, extension_names, names, relation_names};
use crate::sqlstate::server_keeps_session;

/// How often the catalogue is read again without a request, since other programs change functions
/// and views too.
const READ_INTERVAL: Duration = Duration::from_secs(300);
/// The pause before the next attempt if no node answered.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The least time between two readings, however often statements request one. Also the first pause
/// after the server refused or needed too long; that pause doubles each time, up to
/// [`READ_INTERVAL`].
const MIN_PAUSE: Duration = Duration::from_secs(5);
/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns rows of a kind and a name. `f` is any function, `v` one that needs the primary, `a` a name
/// that makes a statement a write anywhere, `o` a volatile operator: see [`Catalogue`].
///
/// Objects have marks, such as `funcid 42`, by which stored expressions refer to them. A view, a
/// table with policies, a domain, or a function with default arguments is tainted if its stored
/// expression refers to one of these:
///
/// - a volatile function, an operator of one, an aggregate of one;
/// - a view that describes the server that reads it;
/// - an unlogged table, which a standby does not have;
/// - a foreign table, which leads to another server;
/// - a sequence, whose value on a standby is ahead of the primary's, since it is logged in advance;
/// - another tainted object.
///
/// A type is tainted if a cast to it calls a volatile function. Expressions are searched as text,
/// since `pg_depend` does not list the functions that come with PostgreSQL, and `pg_proc` calls
/// every aggregate immutable.
///
/// All is sent in one message, which is one transaction, so that `SET LOCAL` ends with it: behind
/// PgBouncer other clients use the session too.
const CATALOGUE: &str = "SET LOCAL statement_timeout = {timeout}; WITH RECURSIVE
    simple AS MATERIALIZED (
        SELECT p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
        WHERE p.prokind <> 'p' AND CASE
            WHEN p.oid < 16384 THEN NOT p.proname = ANY ('{{anywhere}}'::name[])
            WHEN l.lanname IN ('c', 'internal') AND p.proname = ANY ('{{extensions_primary}}'::name[])
                THEN true
            WHEN l.lanname IN ('c', 'internal') AND p.proname = ANY ('{{extensions_anywhere}}'::name[])
                THEN false
            ELSE p.provolatile = 'v' END
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
            OR (relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
                AND NOT relname = ANY ('{{relations_anywhere}}'::name[]))
        UNION
        SELECT r.mark, r.name FROM refers r JOIN tainted t ON t.mark = r.to_mark
    )
    SELECT DISTINCT 'f', proname::text FROM pg_proc WHERE prokind <> 'p'
    UNION SELECT 'f', typname::text FROM pg_type
    UNION ALL SELECT DISTINCT 'v', p.proname::text FROM volatile v JOIN pg_proc p ON p.oid = v.oid
    UNION ALL SELECT DISTINCT '.', p.proname::text FROM volatile v JOIN pg_proc p ON p.oid = v.oid
        WHERE p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
    UNION ALL SELECT DISTINCT 'a', name::text FROM tainted WHERE name IS NOT NULL
    UNION ALL SELECT DISTINCT 'o', o.oprname::text
    FROM pg_operator o JOIN volatile v ON v.oid = o.oprcode";

/// Reads the catalogue. The server gives up after `timeout`.
async fn read(
    sender: &Sender,
    connection: &mut PgConnection,
    timeout: Duration,
) -> Result<Catalogue, sqlx::Error> {
    let sql = CATALOGUE
        .replace("{timeout}", &timeout.as_millis().to_string())
        .replace("{anywhere}", &list(names(Builtin::AnyNode)))
        .replace("{extensions_primary}", &list(extension_names(Builtin::Primary)))
        .replace("{extensions_anywhere}", &list(extension_names(Builtin::AnyNode)))
        .replace("{relations_anywhere}", &list(relation_names(Builtin::AnyNode)));
    let mut catalogue = Catalogue::default();
    for row in sender.send(connection, sql).await? {
        let (kind, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let name: Box<str> = name.into();
        match kind {
            "f" => catalogue.functions.insert(name),
            "v" => catalogue.volatile.insert(name),
            "." => catalogue.attributes.insert(name),
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

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(",")
}

impl Monitor {
    /// Reads the catalogue from the primary, or if that does not answer, from a replica. A replica
    /// may lack a new function; calls of a function that is not in the catalogue go to the primary.
    /// Returns when to read it again.
    pub(super) async fn read_catalogue(&self) -> Next {
        let ClusterState { nodes, snapshot } = &*self.state().clone();
        let others = (0..nodes.len()).filter(|number| {
            let node = &snapshot.nodes[*number];
            Some(*number) != snapshot.primary && node.up && node.excluded.is_none()
        });
        for number in snapshot.primary.into_iter().chain(others) {
            let node = &nodes[number];
            // The server stops by itself after `TIMEOUT`. This timeout is for a server that does
            // not answer.
            let reading = tokio::time::timeout(TIMEOUT * 2, read_from(&node.server));
            let error = match reading.await {
                Ok(Ok(catalogue)) => {
                    if self.classifier.learn(catalogue) {
                        tracing::debug!(node = %node.name(), "the catalogue of functions has changed");
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
            // The catalogue is too large, or this role may not read it. Other nodes would answer
            // the same, so try again less and less often.
            if server_keeps_session(&error) {
                return Next::Later;
            }
        }
        Next::Soon
    }

    /// Returns the loop that reads the catalogue when it is requested, at most every [`MIN_PAUSE`],
    /// and else every [`READ_INTERVAL`].
    pub(super) fn keep_reading_catalogue(
        self: &Arc<Self>,
        next: Next,
    ) -> impl Future<Output = ()> + Send + use<> {
        keep_reading(Arc::downgrade(self), Arc::clone(&self.catalogue_wanted), next)
    }

    /// Reads the catalogue of an engine's only node, for which no loop reads it, unless it was read
    /// within [`MIN_PAUSE`]. Takes at most the node's `acquire_timeout`. Returns whether the
    /// classifier has a current catalogue.
    pub(crate) async fn refresh_catalogue(&self, node: &Node) -> bool {
        let asked = Instant::now();
        let reading = async {
            // Callers that wait at the same time share one reading, even if it fails.
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

/// Reads the catalogue over a connection of its own, since that may take longer than a probe.
async fn read_from(server: &Server) -> Result<Catalogue, sqlx::Error> {
    let mut connection = server.connect_beside("flautino monitor").await?;
    let catalogue = read(&server.sender, &mut connection, TIMEOUT).await?;
    let _ = connection.close().await;
    Ok(catalogue)
}

/// When the catalogue is to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// When it is requested, since it was read successfully.
    WhenWanted,
    /// After [`RETRY_PAUSE`], since no node answered.
    Soon,
    /// After a growing pause, since the server refused.
    Later,
}

async fn keep_reading(monitor: Weak<Monitor>, wanted: Arc<Notify>, mut next: Next) {
    let mut backoff = Backoff::new(MIN_PAUSE, READ_INTERVAL);
    loop {
        match next {
            Next::Soon => tokio::time::sleep(RETRY_PAUSE).await,
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
