//! A PostgreSQL engine for axum apps, and for anything else that runs on tokio.
//!
//! An [`Engine`] owns a pool for each of its nodes. A [`Handle`] is what a request queries
//! through, and it is a plain sqlx executor:
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
//!
//! let mut tx = db.begin().await?;
//! sqlx::query("DELETE FROM notes WHERE id = $1").bind(notes[0].0).execute(&mut tx).await?;
//! tx.commit().await?; // `Ok` only when the server has committed
//!
//! engine.close().await;
//! # Ok(()) }
//! ```
//!
//! The modules, in reading order:
//!
//! - `config`: what an engine is made of; [`EngineConfig::find`] looks for it
//! - `engine`: [`Engine`]: open, close, status
//! - `handle`: [`Handle`]: queries, nodes by name, transactions
//! - `session`, `token`: what a session must see, and [`Token`], which carries that on
//! - `executor`, `statement`: sqlx's `Executor`, and what is looked at before a statement is sent
//! - [`router`]: which node, and why; `dispatch` acts on it, and tries again elsewhere
//! - `meter`, `lease`, `pool`: [`Lease`]: a checked-out connection, and where it goes afterwards
//! - [`transaction`]: begin, savepoint, commit, rollback
//! - `node`, `status`, `logging`, `error`

mod config;
mod dispatch;
mod engine;
mod error;
mod executor;
mod gauges;
mod handle;
mod lease;
mod logging;
mod meter;
mod node;
mod pool;
pub mod router;
mod server_error;
mod session;
mod statement;
mod status;
mod token;
pub mod transaction;

pub use self::config::{
    DiscoveryConfig, EngineConfig, Fallback, MAIN, NodeConfig, PoolConfig, RoutingConfig,
    RoutingMode,
};
pub use self::engine::{CloseReport, Engine, NodesReport, OpenReport};
pub use self::error::{AcquireStep, ConfigError, Error, NodeFailure, OpenError, UnknownNode};
pub use self::handle::{Handle, Timing};
pub use self::lease::Lease;
pub use self::node::Role;
pub use self::pool::{ConnectionHook, hook};
pub use self::router::{Access, Consistency, Reason};
pub use self::status::{EngineStatus, Health, NodeStatus, PoolStatus, ReadYourWrites};
pub use self::token::{ParseTokenError, Token};
pub use self::transaction::{IsolationLevel, Savepoint, Transaction, TransactionOptions};
