//! [`Db`] as an extractor.

use std::convert::Infallible;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use flautino_axum::LayerMissing;
use http::Extensions;
use http::request::Parts;

use crate::db::Db;

impl Db {
    /// Returns the request's handle from its extensions, for services that have no extractors.
    ///
    /// # Errors
    ///
    /// [`LayerMissing`], where the request did not pass an [`EngineLayer`](flautino_axum::EngineLayer).
    pub fn from_extensions(extensions: &Extensions) -> Result<Self, LayerMissing> {
        flautino_axum::Db::from_extensions(extensions).map(Self::from)
    }
}

/// Of any engine: in an app with several, a handler takes `flautino_axum::Db<Reports>` and makes this of it.
impl<N> From<flautino_axum::Db<N>> for Db {
    fn from(db: flautino_axum::Db<N>) -> Self {
        Self(db.into())
    }
}

impl<S: Sync> FromRequestParts<S> for Db {
    type Rejection = LayerMissing;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, LayerMissing> {
        flautino_axum::Db::from_request_parts(parts, state).await.map(Self::from)
    }
}

/// `Option<Db>` is `None` on a route without an [`EngineLayer`](flautino_axum::EngineLayer).
impl<S: Sync> OptionalFromRequestParts<S> for Db {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Infallible> {
        Ok(<Self as FromRequestParts<S>>::from_request_parts(parts, state).await.ok())
    }
}
