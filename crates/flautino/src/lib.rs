//! A PostgreSQL engine for axum apps, and for anything else that runs on tokio.
//!
//! An [`Engine`] owns a pool of connections for each of its nodes. A request queries through a
//! [`Handle`], which is a plain sqlx executor:
//!
//! ```no_run
//! use flautino::{Engine, EngineConfig};
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(EngineConfig::from_url("postgres://postgres@localhost/my_app")?)?;
//! engine.open().await?;
//!
//! let db = engine.handle();
//! let notes: Vec<(i64, String)> =
//!     sqlx::query_as("SELECT id, title FROM notes ORDER BY id").fetch_all(&db).await?;
//! // Or through its methods, with the trait imported.
//! use sqlx::Executor;
//! db.execute("VACUUM notes").await?;
//!
//! let mut tx = db.begin().await?;
//! sqlx::query("DELETE FROM notes WHERE id = $1").bind(notes[0].0).execute(&mut tx).await?;
//! tx.commit().await?; // `Ok` only when the server has committed
//!
//! engine.close().await;
//! # Ok(()) }
//! ```
//!
//! The [guide] goes from here to replicas, tenants, failovers and many instances.
//!
//! The modules, from the top down; each uses only those below it:
//!
//! - `engine`: [`Engine`]: open, close, adding and removing nodes, status
//! - `handle`: [`Handle`]: queries, nodes by name, transactions, tokens
//! - [`transaction`]: begin, savepoint, commit, rollback
//! - `dispatch`: runs a statement on a node, and on another one if the first fails
//! - `lease`: [`Lease`]: a checked-out connection, and sqlx's `Executor` over it
//! - `monitor`: probes every node, and publishes the state of the cluster
//! - `node`: one server, how its sessions are set up, its pool
//! - `session`: what a session must see, and [`Token`], which carries this to its next request
//! - `logging`: logs statements and their results
//! - `metrics`: what is told to the recorder of the `metrics` facade, with the feature of that name
//! - `statement`, `sql`: one statement, and what its text shows
//! - `config`: [`EngineConfig`] and how it is found, read and checked
//! - [`router`]: which node a statement goes to, and why: pure decisions
//! - `sqlstate`, `error`, `backoff`: codes of errors, the engine's own errors, growing pauses

mod backoff;
mod config;
mod dispatch;
mod engine;
mod error;
#[cfg(doc)]
pub mod guide;
mod handle;
mod lease;
mod logging;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(not(feature = "metrics"))]
mod metrics;
mod monitor;
mod node;
pub mod router;
mod session;
mod sql;
mod sqlstate;
mod statement;
pub mod transaction;

pub use self::config::{
    DiscoveryConfig, EngineConfig, Fallback, MAIN, NodeConfig, PoolConfig, RoutingConfig,
    RoutingMode,
};
pub use self::engine::{
    CloseReport, Engine, EngineEvent, EngineStatus, Event, EventKind, Health, Listener, NodeStatus,
    NodesReport, OpenReport, PoolStatus, ReadYourWrites, StatementStatus, StatementWatch,
};
pub use self::error::{
    AcquireStep, ConfigError, DeadlineStep, Error, NodeFailure, OpenError, UnknownNode,
};
pub use self::handle::Handle;
pub use self::lease::Lease;
pub use self::node::{ConnectionHook, hook};
pub use self::router::{Access, Consistency, Reason, Role};
pub use self::session::{ParseTokenError, Timing, Token};
pub use self::transaction::{
    DetachedSavepoint, IsolationLevel, Savepoint, Transaction, TransactionOptions,
};
