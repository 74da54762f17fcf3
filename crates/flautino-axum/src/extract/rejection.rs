//! Why an extractor has nothing to give: each rejection names its fix.

use axum_core::response::{IntoResponse, Response};
use http::StatusCode;

/// `Db` or `Tx` was extracted on a route without [`EngineLayer`](crate::EngineLayer): 500.
#[derive(Debug, thiserror::Error)]
#[error(
    "EngineLayer is missing on this route, so there is no database handle to extract; \
     add `.layer(EngineLayer::new(engine))` to the Router, after the routes"
)]
pub struct LayerMissing(pub(super) ());

impl IntoResponse for LayerMissing {
    fn into_response(self) -> Response {
        tracing::error!("{self}");
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// Why a [`Tx`](crate::Tx) cannot be had: 500.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TxRejection {
    /// The layer is missing.
    #[error(transparent)]
    LayerMissing(#[from] LayerMissing),
    /// Another extractor of the same request holds it; two would be one transaction.
    #[error(
        "the request's transaction is already extracted elsewhere, in another argument of the \
         handler or in a middleware that still holds it; extract `Tx` once and pass it on"
    )]
    InUse,
}

impl IntoResponse for TxRejection {
    fn into_response(self) -> Response {
        match self {
            Self::LayerMissing(missing) => missing.into_response(),
            Self::InUse => {
                tracing::error!("{self}");
                (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
            }
        }
    }
}
