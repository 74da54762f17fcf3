//! An engine for an app's own tests, over one server that stands in for a primary and a replica.

use std::sync::Arc;

use sqlx::PgPool;

use super::Engine;
use super::state::new_shared;
use crate::config::{EngineConfig, MAIN};
use crate::node::Node;
use crate::router::Role;

/// The name of the node that stands in for a replica.
const REPLICA: &str = "replica";

impl Engine {
    /// Makes an engine for plain tests on one server, such as those of `#[sqlx::test]`, that is *strict*: beside the
    /// primary `main` it has a node `replica` over the same database, on which everything is read-only. The
    /// router sends reads there as it would to a real replica, so that a test fails which, on a cluster,
    ///
    /// - would send a write to a replica ([`Handle::replica`](crate::Handle::replica),
    ///   [`Handle::node`](crate::Handle::node), a function that the router takes for a read): it fails with the
    ///   server's error 25006, and is not run again on the primary, as it is elsewhere;
    /// - relies on the primary in a read: on a temporary table, `nextval`, `FOR UPDATE`, `LISTEN`, `txid_current`,
    ///   a serializable transaction. What a standby refuses and a read-only transaction does not is
    ///   [`Error::RefusedByStandby`](crate::Error::RefusedByStandby).
    ///
    /// A session that wrote reads from the primary, as if the replica never caught up. For the rest the
    /// replica is never behind: what depends on lag, failover or the loss of a server needs a cluster, which
    /// the crate `flautino-cluster` starts.
    ///
    /// Both nodes take their connections from `pool`, each statement on the replica in a transaction of its own. A
    /// test that holds a connection while it asks for another one needs a pool of two. For the rest it is as
    /// [`from_pool`](Engine::from_pool).
    ///
    /// ```no_run
    /// # use sqlx::PgPool;
    /// // #[sqlx::test]
    /// async fn a_report_reads_from_replicas(pool: PgPool) -> sqlx::Result<()> {
    ///     let engine = flautino::Engine::for_tests(pool);
    ///     let db = engine.handle();
    ///     sqlx::query("SELECT count(*) FROM pg_class").fetch_one(&db).await?;
    ///     assert_eq!(db.served_by().as_deref(), Some("replica"));
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn for_tests(pool: PgPool) -> Self {
        let config = EngineConfig { extensions: Vec::new(), ..EngineConfig::default() };
        let (shared, catalogue_wanted) = new_shared(&config);
        let connections = pool.options().get_max_connections();
        let main = Arc::new(Node::over_pool(MAIN, pool.clone(), &shared, false));
        main.set_role(Role::Primary);
        let replica = Arc::new(Node::over_pool(REPLICA, pool, &shared, true));
        let share = config.routing.fallback_share;
        let engine = Self::over_open_nodes(vec![main, replica], config, shared, catalogue_wanted);
        engine.state.monitor().stand_in();
        engine.state.context.budget.open(connections, share);
        engine
    }
}
