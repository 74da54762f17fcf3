//! Why an extractor has nothing to give: each rejection names its fix.

use std::any::TypeId;

use axum_core::response::{IntoResponse, Response};
use http::StatusCode;

use crate::name::{Main, short_name};

/// `Db` or `Tx` was extracted on a route without [`EngineLayer`](crate::EngineLayer), or without the one of that
/// name: 500.
#[derive(Debug, thiserror::Error)]
#[error(
    "EngineLayer{} is missing on this route, so there is no database handle to extract; \
     add `.layer(EngineLayer::new(engine){})` to the Router, after the routes",
    .named.map_or(String::new(), |name| format!(" named `{name}`")),
    .named.map_or(String::new(), |name| format!(".named::<{name}>()")),
)]
pub struct LayerMissing {
    named: Option<&'static str>,
}

impl LayerMissing {
    /// For the engine of this name.
    pub(super) fn of<N: 'static>() -> Self {
        let is_main = TypeId::of::<N>() == TypeId::of::<Main>();
        Self { named: (!is_main).then(short_name::<N>) }
    }
}

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
    /// It has begun, and settings that follow from the request
    /// ([`EngineLayer::settings`](crate::EngineLayer::settings)) are others by now.
    #[error(
        "the request's transaction has begun with other settings (`EngineLayer::settings`), in a middleware \
         before the request was authenticated; use `Db` there"
    )]
    OtherSettings,
}

impl IntoResponse for TxRejection {
    fn into_response(self) -> Response {
        match self {
            Self::LayerMissing(missing) => missing.into_response(),
            Self::InUse | Self::OtherSettings => {
                tracing::error!("{self}");
                (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
            }
        }
    }
}
