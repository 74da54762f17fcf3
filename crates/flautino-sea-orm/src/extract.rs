//! axum's extractors: what [`flautino_axum`]'s layer put into the request.

mod db;
mod tx;

pub use self::tx::Tx;
