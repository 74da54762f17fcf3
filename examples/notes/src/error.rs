//! The responses to requests that failed.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use flautino::UnknownNode;
use flautino_axum::DbError;
use serde_json::json;

/// Why a request failed, with the status of its response.
pub(crate) enum ApiError {
    /// 422: the note is not acceptable.
    Invalid(String),
    /// 404: there is no such node.
    UnknownNode(UnknownNode),
    /// As [`DbError`] says: the statement failed.
    Db(DbError),
}

impl From<sqlx::Error> for ApiError {
    fn from(err: sqlx::Error) -> Self {
        Self::Db(err.into())
    }
}

impl From<UnknownNode> for ApiError {
    fn from(err: UnknownNode) -> Self {
        Self::UnknownNode(err)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, detail) = match self {
            Self::Invalid(detail) => (StatusCode::UNPROCESSABLE_ENTITY, detail),
            Self::UnknownNode(err) => (StatusCode::NOT_FOUND, err.to_string()),
            Self::Db(err) => return err.into_response(),
        };
        problem(status, &detail)
    }
}

/// Problem details (RFC 9457), as a [`DbError`] is one.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = json!({ "type": "about:blank", "title": title, "status": code, "detail": detail });
    let media_type = [(CONTENT_TYPE, "application/problem+json")];
    (status, media_type, body.to_string()).into_response()
}
