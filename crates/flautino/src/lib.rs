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
//! - `executor`, `statement`: sqlx's `Executor`, and what is looked at before a statement is sent
//! - `lease`, `pool`: [`Lease`]: a checked-out connection, and where it goes afterwards
//! - [`transaction`]: begin, savepoint, commit, rollback
//! - `node`, `bootstrap`, `status`, `logging`, `error`

mod bootstrap;
mod config;
mod engine;
mod error;
mod executor;
mod handle;
mod lease;
mod logging;
mod node;
mod pool;
mod statement;
mod status;
pub mod transaction;

pub use self::config::{EngineConfig, MAIN, NodeConfig, PoolConfig};
pub use self::engine::{CloseReport, Engine, OpenReport};
pub use self::error::{AcquireStep, ConfigError, Error, NodeFailure, OpenError, UnknownNode};
pub use self::handle::{Handle, Reason, Timing};
pub use self::lease::Lease;
pub use self::node::Role;
pub use self::status::{EngineStatus, Health, NodeStatus, PoolStatus};
pub use self::transaction::{IsolationLevel, Savepoint, Transaction, TransactionOptions};
