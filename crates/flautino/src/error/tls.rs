//! Why TLS with a server could not be had.

use std::fmt;

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

/// The fix behind an error's text, if there is one.
pub(super) struct AndFix(pub(super) Option<&'static str>);

impl fmt::Display for AndFix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |fix| write!(f, "; {fix}"))
    }
}
