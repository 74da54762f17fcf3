//! SeaORM's options of a transaction as flautino's.

use flautino::TransactionOptions;
use sea_orm::{AccessMode, DbErr, IsolationLevel};

/// How a transaction begins that is not nested.
pub(crate) fn options(
    isolation: Option<IsolationLevel>,
    access: Option<AccessMode>,
) -> TransactionOptions {
    TransactionOptions {
        isolation: isolation.map(level),
        read_only: access == Some(AccessMode::ReadOnly),
        ..TransactionOptions::default()
    }
}

fn level(isolation: IsolationLevel) -> flautino::IsolationLevel {
    match isolation {
        // For PostgreSQL these are the same.
        IsolationLevel::ReadUncommitted | IsolationLevel::ReadCommitted => {
            flautino::IsolationLevel::ReadCommitted
        }
        IsolationLevel::RepeatableRead => flautino::IsolationLevel::RepeatableRead,
        IsolationLevel::Serializable => flautino::IsolationLevel::Serializable,
    }
}

/// What is sent once a nested transaction has begun. PostgreSQL has no isolation level for a part of a transaction.
pub(crate) fn nested_mode(
    isolation: Option<IsolationLevel>,
    access: Option<AccessMode>,
) -> Result<Option<&'static str>, DbErr> {
    if isolation.is_some() {
        let message = "a nested transaction cannot have an isolation level of its own; give it to the \
                       outermost one (for `Tx`: `start_with`)";
        return Err(DbErr::Custom(message.to_owned()));
    }
    Ok(access.map(|access| match access {
        AccessMode::ReadOnly => "SET TRANSACTION READ ONLY",
        AccessMode::ReadWrite => "SET TRANSACTION READ WRITE",
    }))
}
