//! Why TLS with a server could not be had.

use super::startup::AndFix;

/// TLS with a node failed. sqlx's traits want a [`sqlx::Error`]: this is inside its `Tls`.
#[derive(Debug, thiserror::Error)]
#[error("node `{node}` ({address}): {what}{}", AndFix(*fix))]
pub(crate) struct TlsFailure {
    pub(crate) node: String,
    pub(crate) address: String,
    /// What is wrong, with the files that may be to blame.
    pub(crate) what: String,
    /// `None` where `what` says it.
    pub(crate) fix: Option<&'static str>,
    pub(crate) source: sqlx::Error,
}

impl TlsFailure {
    /// Returns the failure inside a [`sqlx::Error`], if there is one.
    pub(crate) fn of(error: &sqlx::Error) -> Option<&Self> {
        match error {
            sqlx::Error::Tls(source) => source.downcast_ref(),
            _ => None,
        }
    }
}

impl From<TlsFailure> for sqlx::Error {
    fn from(failure: TlsFailure) -> Self {
        Self::Tls(failure.into())
    }
}
