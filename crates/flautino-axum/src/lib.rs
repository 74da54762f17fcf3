//! [`flautino`] in axum: one layer gives every handler a database handle, and one `serve`
//! opens the pools before the first request and closes them after the last.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use flautino::{Engine, EngineConfig};
//! use flautino_axum::{Db, DbError, EngineLayer};
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(EngineConfig::find()?)?;
//! let app = Router::new().route("/count", get(count)).layer(EngineLayer::new(engine.clone()));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! flautino_axum::serve(listener, app, engine).await?; // opens, serves, drains, closes
//! # Ok(()) }
//!
//! async fn count(db: Db) -> Result<String, DbError> {
//!     let count: i64 = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&db).await?;
//!     Ok(count.to_string())
//! }
//! ```
//!
//! flautino's [guide](https://docs.rs/flautino/latest/flautino/guide/) goes from here to replicas, tenants, failovers
//! and many instances.
//!
//! The modules, in the order in which a request meets them:
//!
//! - `serve`: [`serve`], from opening to closing
//! - `layer`: [`EngineLayer`] puts a handle into the request; when the response comes back, it ends
//!   the transaction and adds the token
//! - `token`: the position of what a client wrote, as a cookie and as a header
//! - `settings`: settings of PostgreSQL that follow from a request
//! - `context`: what the layer and the extractors share of one request
//! - `extract`: [`Db`] and [`Tx`], which handlers ask for
//! - `name`: what tells several engines of an app apart
//! - `error`: [`DbError`], an sqlx error as a response
//! - `status`: [`status_routes`], for load balancers and people

mod context;
mod error;
mod extract;
mod layer;
mod name;
mod serve;
mod settings;
mod status;
mod token;

pub use self::error::DbError;
pub use self::extract::{Db, LayerMissing, Tx, TxRejection};
pub use self::layer::{
    EmptyError, EngineLayer, EngineService, ErrorResponse, LayerError, ResponseFuture,
};
pub use self::name::Main;
pub use self::serve::{Serve, ServeError, ServeReport, serve};
pub use self::status::status_routes;
pub use self::token::{InvalidTokenPath, TOKEN_COOKIE, TOKEN_HEADER};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The examples of flautino's guide that need axum compile, and run unless they need a server.
#[cfg(doctest)]
mod guide {
    macro_rules! chapters {
        ($($name:ident,)+) => {
            $(
                #[doc = include_str!(concat!(
                    "../../flautino/docs/guide/", stringify!($name), ".md"
                ))]
                mod $name {}
            )+
        };
    }

    chapters! {
        start,
        transactions,
        row_level_security,
        shutdown,
        testing,
        several_engines,
        moving,
    }
}
