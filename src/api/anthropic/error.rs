//! Errors in Anthropic's body: `{"type": "error", "error": {"type", "message"}}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::error::ApiError;

/// Anthropic's error body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnthropicError {
    /// `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The error.
    pub error: AnthropicErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnthropicErrorDetail {
    /// The kind of error, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What went wrong, what was found and what would do.
    pub message: String,
}

impl AnthropicError {
    pub(super) fn of(error: &ApiError) -> Self {
        let kind = match error.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        };
        let (kind, message) = (kind.to_owned(), error.message().to_owned());
        Self { kind: "error".into(), error: AnthropicErrorDetail { kind, message } }
    }
}

/// Writes an error's answer anew, with the same status and headers but for the body's own.
pub(in crate::api) async fn in_anthropics_words(response: Response) -> Response {
    let Some(error) = response.extensions().get::<ApiError>() else { return response };
    let body = Json(AnthropicError::of(error)).into_response();
    let (mut parts, _) = response.into_parts();
    let (of_body, body) = body.into_parts();
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    parts.headers.extend(of_body.headers);
    Response::from_parts(parts, body)
}
