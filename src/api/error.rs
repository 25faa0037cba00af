//! The one error of the HTTP surface, answered in OpenAI's body: `{"error": {message, type, param, code}}`.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::gateway::{GatewayError, VariableFault};

/// OpenAI's error body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong, for a person (`message`) and for a program (`type`, `code`, `param`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// What went wrong, what was found and what would do.
    pub message: String,
    /// The kind of error, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The parameter at fault, as a path such as `messages[0].role`.
    pub param: Option<String>,
    /// The precise reason, such as `model_not_found`.
    pub code: Option<String>,
}

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
    retry_after: Option<Duration>,
}

/// What is wrong with a request's API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// There is none.
    Missing,
    /// The server does not know it.
    Unknown,
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl ApiError {
    /// A request error about one parameter: 400.
    pub fn parameter(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::request(StatusCode::BAD_REQUEST, code, message) }
    }

    /// A request error about no parameter in particular.
    pub fn request(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind: INVALID, code, param: None, message: message.into(), retry_after: None }
    }

    /// A defect of ours: 500. The details belong in the log, not in the answer.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { kind: SERVER, ..Self::request(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message) }
    }

    /// The server cannot do it at the moment: 503, and when to try again.
    pub fn busy(code: &'static str, message: impl Into<String>) -> Self {
        let retry_after = Some(Duration::from_secs(1));
        Self { kind: SERVER, retry_after, ..Self::request(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    /// A defect whose details are in the log.
    pub fn defect() -> Self {
        Self::internal("the server hit a defect of its own; its log says more")
    }

    /// A path that is not served: 404.
    pub fn unknown_path(path: &str) -> Self {
        Self::request(
            StatusCode::NOT_FOUND,
            "unknown_url",
            format!("there is no endpoint at {}; /openapi.json lists those that exist", shown(path)),
        )
    }

    /// A path that is served with another method: 405.
    pub fn wrong_method(method: &str, path: &str) -> Self {
        Self::request(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!(
                "{} does not accept {}; the header `Allow` lists what it accepts",
                shown(path),
                shown(method)
            ),
        )
    }

    /// No API key, or one that is not known: 401.
    pub fn wrong_key(fault: KeyFault) -> Self {
        let message = match fault {
            KeyFault::Missing => {
                "no API key was given: send the header `Authorization: Bearer <key>`, or `x-api-key`"
            }
            KeyFault::Unknown => "this API key is not one of the server's `server.api_keys`",
        };
        Self::request(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
    }

    /// The same about a request whose parameters have other names: each of `names` is (here, there).
    pub(super) fn renamed(mut self, names: &[(&str, &str)]) -> Self {
        let Some(param) = &self.param else { return self };
        let within = |name: &str| {
            let rest = param.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| rest.to_owned())
        };
        let Some((here, there, rest)) =
            names.iter().find_map(|(here, there)| Some((here, there, within(here)?)))
        else {
            return self;
        };
        self.message = self.message.replace(&format!("`{here}"), &format!("`{there}"));
        self.param = Some(format!("{there}{rest}"));
        self
    }

    /// What happened, in words.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body of the answer; also sent as an event of a stream that fails.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.clone(),
                kind: self.kind.to_owned(),
                param: self.param.clone(),
                code: Some(self.code.to_owned()),
            },
        }
    }
}

/// What a client wrote, fit for a message: short, and with control characters escaped.
pub(super) fn shown(text: &str) -> String {
    const LIMIT: usize = 80;
    let mut out: String = text.chars().take(LIMIT).flat_map(char::escape_debug).collect();
    if text.chars().nth(LIMIT).is_some() {
        out.push('…');
    }
    format!("`{out}`")
}

impl From<GatewayError> for ApiError {
    fn from(error: GatewayError) -> Self {
        let message = error.to_string();
        let server = |status: StatusCode, kind: &'static str, code: &'static str| Self {
            kind,
            ..Self::request(status, code, message.clone())
        };
        match error {
            GatewayError::UnknownModel { .. } | GatewayError::UnknownVersion { .. } => Self {
                param: Some("model".into()),
                ..Self::request(StatusCode::NOT_FOUND, "model_not_found", message)
            },
            GatewayError::NotEnabled { .. } => Self {
                param: Some("model".into()),
                ..server(StatusCode::FORBIDDEN, "permission_error", "not_enabled")
            },
            GatewayError::Invalid { param, .. } => Self::parameter("invalid_value", param, message),
            GatewayError::WrongKind { .. } => Self::parameter("model_of_another_kind", "model", message),
            GatewayError::Variable { name, fault, .. } => {
                let code = match fault {
                    VariableFault::Missing(_) => "missing_required_parameter",
                    VariableFault::Unknown(_) => "unknown_parameter",
                    VariableFault::Kind { .. } => "invalid_type",
                };
                Self::parameter(code, format!("prompt_variables.{name}"), message)
            }
            GatewayError::TooLong { param, .. } => Self::parameter("context_length_exceeded", param, message),
            GatewayError::QueueFull { retry_after } => Self {
                retry_after: Some(retry_after),
                ..server(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full")
            },
            GatewayError::Crowded { retry_after } => Self {
                retry_after: Some(retry_after),
                ..server(StatusCode::SERVICE_UNAVAILABLE, SERVER, "server_busy")
            },
            GatewayError::NotReady { .. } => Self {
                retry_after: Some(Duration::from_secs(1)),
                ..server(StatusCode::SERVICE_UNAVAILABLE, SERVER, "model_not_ready")
            },
            GatewayError::ShuttingDown => Self {
                retry_after: Some(Duration::from_secs(1)),
                ..server(StatusCode::SERVICE_UNAVAILABLE, SERVER, "shutting_down")
            },
            GatewayError::Deadline { .. } => {
                server(StatusCode::GATEWAY_TIMEOUT, "timeout_error", "request_timeout")
            }
            GatewayError::CutOff => Self {
                retry_after: Some(Duration::from_secs(1)),
                ..server(StatusCode::SERVICE_UNAVAILABLE, SERVER, "answer_cut_off")
            },
            GatewayError::Grammar { .. } => Self::request(StatusCode::BAD_REQUEST, "grammar_failed", message),
            GatewayError::Engine(_) => server(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "engine_failed"),
            GatewayError::Internal { .. } => {
                server(StatusCode::INTERNAL_SERVER_ERROR, SERVER, "internal_error")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(wait) = self.retry_after {
            // Whole seconds, and never 0: that would ask for a storm.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // for endpoints whose errors have another body
        response.extensions_mut().insert(self);
        response
    }
}
