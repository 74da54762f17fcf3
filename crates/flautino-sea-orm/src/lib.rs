//! SeaORM 2 through flautino's replica router: `Entity::find()` reads from a replica that has what this client wrote,
//! `ActiveModel::insert` goes to the primary.
//!
//! ```no_run
//! # mod note {
//! #     use sea_orm::entity::prelude::*;
//! #     #[derive(Clone, Debug, DeriveEntityModel, serde::Serialize)]
//! #     #[sea_orm(table_name = "note")]
//! #     pub struct Model { #[sea_orm(primary_key)] pub id: i32, pub title: String }
//! #     #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
//! #     pub enum Relation {}
//! #     impl ActiveModelBehavior for ActiveModel {}
//! # }
//! use axum::{Json, Router, http::StatusCode, routing::get};
//! use flautino::{Engine, EngineConfig};
//! use flautino_axum::EngineLayer;
//! use flautino_sea_orm::{Db, DbError};
//! use sea_orm::{ActiveModelTrait, ActiveValue::Set, EntityTrait};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let engine = Engine::new(EngineConfig::find()?)?;
//!     let app = Router::new()
//!         .route("/notes", get(list).post(create))
//!         .layer(EngineLayer::new(engine.clone()));
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     flautino_axum::serve(listener, app, engine).await?;
//!     Ok(())
//! }
//!
//! async fn list(db: Db) -> Result<Json<Vec<note::Model>>, DbError> {
//!     Ok(Json(note::Entity::find().all(&db).await?)) // a replica
//! }
//!
//! async fn create(db: Db, Json(title): Json<String>) -> Result<StatusCode, DbError> {
//!     note::ActiveModel { title: Set(title), ..Default::default() }.insert(&db).await?; // the primary
//!     Ok(StatusCode::CREATED)
//! }
//! ```
//!
//! Rust lets no third crate implement SeaORM's traits for flautino's types, so this one has types of its own, by the
//! same names: [`Db`], [`Tx`], [`Transaction`], [`DbError`]. Outside of axum, `Db::from(&engine)` begins a session.
//!
//! # What goes where
//!
//! Each statement goes the way of one that is sent with sqlx: what certainly only reads goes to a replica that
//! is fresh enough, everything else to the primary.
//!
//! | SeaORM | node |
//! |---|---|
//! | `find`, `find_with_related`, `LoaderTrait`, `paginate`, `cursor_by`, `count`, `exists`, `stream` | a replica |
//! | a `find` with `lock`, or with a function in it that may write (volatile) | the primary |
//! | `insert`, `update`, `delete`, `save`, with `RETURNING` or without; schema statements | the primary |
//! | what a session reads after it wrote | a replica that has replayed that, else the primary |
//! | `begin`, `transaction`, [`Tx`] | the primary |
//! | `begin_with_config(…, Some(AccessMode::ReadOnly))`, unless serializable | a replica |
//! | `&db.primary()`, `&db.replica()`, `&db.node("…")?` | that one |
//! | [`migrate`] | the primary |
//!
//! # Errors
//!
//! SeaORM's [`DbErr`](sea_orm::DbErr) keeps sqlx's error, so that `sql_err()` knows a violated constraint.
//! [`error_of`] finds flautino's own error in it, [`sqlx_error_of`] that of sqlx. Where there was no connection to send
//! anything over, it is a `DbErr::Conn`.
//!
//! # Not supported
//!
//! - What SeaORM has for its own `DatabaseConnection` alone: `sea-orm-migration` and `schema-sync` (see [`migrate`]),
//!   `rbac`, `set_metric_callback`, `ConnectOptions`. flautino has logs, spans and metrics of its own.
//! - SeaORM's other databases, its `sync` flavour, its spans (`tracing-spans`).
//! - A closure of SeaORM's `transaction` that is run again after a serialization failure: it can be called once.
//! - An isolation level for a nested transaction, which PostgreSQL does not have.
//! - Statements through a transaction in which a nested one is open, or of which a stream of rows is open: an error,
//!   where SeaORM's own would undo the one with the nested transaction, and wait for ever for the other.
//!
//! # Features
//!
//! `axum`: the extractors and the response; `stream`: SeaORM's `StreamTrait`. Both are on by default. Types such as
//! `chrono`'s come with SeaORM's own features (`with-chrono`, …), which you turn on in your dependency on `sea-orm`.
//!
//! The modules, from the top down:
//!
//! - `extract`, `response`: axum's side: [`Db`] and [`Tx`] from a request, [`DbError`]
//! - `migrate`: [`migrate`], SeaORM's migrations on the primary
//! - `db`: [`Db`], a handle
//! - `transaction`: [`Transaction`], a transaction of its own or nested in one
//! - `level`: what transactions share that are nested in each other
//! - `stream`, `statement`, `options`, `error`: rows, statements, options and errors, from one to the other

mod db;
mod error;
#[cfg(feature = "axum")]
mod extract;
mod level;
mod migrate;
mod options;
#[cfg(feature = "axum")]
mod response;
mod statement;
#[cfg(feature = "stream")]
mod stream;
mod transaction;

pub use self::db::Db;
pub use self::error::{error_of, sqlx_error_of};
#[cfg(feature = "axum")]
pub use self::extract::Tx;
pub use self::level::TransactionGuard;
pub use self::migrate::migrate;
#[cfg(feature = "axum")]
pub use self::response::DbError;
#[cfg(feature = "stream")]
pub use self::stream::QueryStream;
pub use self::transaction::Transaction;

/// The README's example compiles.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
