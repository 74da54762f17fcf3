//! The responses to requests that failed.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flautino::UnknownNode;
use flautino_axum::DbError;

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
        let (status, error) = match self {
            Self::Invalid(error) => (StatusCode::UNPROCESSABLE_ENTITY, error),
            Self::UnknownNode(err) => (StatusCode::NOT_FOUND, err.to_string()),
            Self::Db(err) => return err.into_response(),
        };
        (status, Json(serde_json::json!({ "error": error }))).into_response()
    }
}
