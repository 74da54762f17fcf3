//! What handlers ask for.

mod db;
mod rejection;
mod tx;

pub use self::db::Db;
pub use self::rejection::{LayerMissing, TxRejection};
pub use self::tx::Tx;
