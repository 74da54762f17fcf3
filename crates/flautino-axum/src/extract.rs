//! What handlers ask for.

mod db;
mod tx;

pub use self::db::{Db, LayerMissing};
pub use self::tx::{Tx, TxRejection};
