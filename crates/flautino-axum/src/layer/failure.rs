//! What the layer answers where it cannot let the handler's response out.

use axum_core::response::{IntoResponse, Response as AxumResponse};
use http::request::Parts;
use http::{Request, Response, StatusCode};

use crate::error::{DbError, problem};
use crate::settings::head_of;

/// Why the layer answers in a handler's place, whose response was a success. The transaction is rolled back,
/// unless it says that nobody knows.
///
/// As a response it is a problem detail (RFC 9457), with the status of [`DbError`] for the error of the commit,
/// and else a 500. It tells nothing of the database. The layer has logged it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The request's transaction was not committed.
    #[error("the request's transaction was not committed: {0}")]
    NotCommitted(#[source] sqlx::Error),
    /// A [`Tx`](crate::Tx) was still held, in a spawned task say, when the response was made.
    #[error(
        "the request's transaction was still held when the response was made, so it is rolled back; \
         drop `Tx` before the handler returns"
    )]
    StillHeld,
}

impl LayerError {
    /// Returns the status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NotCommitted(error) => DbError::status_of(error),
            Self::StillHeld => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for LayerError {
    fn into_response(self) -> AxumResponse {
        problem(self.status())
    }
}

/// Makes the layer's own responses: [`EmptyError`], or what [`on_error`](crate::EngineLayer::on_error) was
/// given.
pub trait ErrorResponse<R> {
    /// What the response needs to know of the request. `None` where that is nothing, so that it costs nothing.
    #[doc(hidden)]
    fn parts<B>(&self, request: &Request<B>) -> Option<Box<Parts>>;

    #[doc(hidden)]
    fn respond(&self, error: LayerError, parts: Option<Box<Parts>>) -> Response<R>;
}

/// A 500 with an empty body: the layer works over any tower service, and does not know how to write into its
/// responses.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyError;

impl<R: Default> ErrorResponse<R> for EmptyError {
    fn parts<B>(&self, _: &Request<B>) -> Option<Box<Parts>> {
        None
    }

    fn respond(&self, _: LayerError, _: Option<Box<Parts>>) -> Response<R> {
        let mut response = Response::new(R::default());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }
}

impl<R, F: Fn(LayerError, Parts) -> Response<R>> ErrorResponse<R> for F {
    fn parts<B>(&self, request: &Request<B>) -> Option<Box<Parts>> {
        Some(head_of(request))
    }

    fn respond(&self, error: LayerError, parts: Option<Box<Parts>>) -> Response<R> {
        let parts = parts.unwrap_or_else(|| Box::new(Request::new(()).into_parts().0));
        self(error, *parts)
    }
}
