//! Endpoints for operators and their tools: health, readiness, metrics, the API's description.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::admin::ConfigAnswer;
use super::error::{ApiError, ErrorBody};
use super::openapi::PublicApi;
use super::public::PublicState;

/// Whether the process does its work.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HealthAnswer {
    /// `ok` or `failing`.
    pub status: String,
    /// Versions whose engine died while they were hot.
    pub dead_engines: Vec<String>,
}

/// Whether requests should be sent here.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReadyAnswer {
    /// Whether they should.
    pub ready: bool,
    /// If not, why.
    pub reasons: Vec<String>,
    /// Which configuration is in force; where `verbose` is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigAnswer>,
}

/// 200 while every hot version's engine lives.
#[utoipa::path(get, path = "/health", tag = "operations", responses(
    (status = 200, description = "All is well", body = HealthAnswer),
    (status = 503, description = "An engine has died", body = HealthAnswer),
))]
pub(super) async fn health(State(state): State<PublicState>) -> Response {
    let dead_engines: Vec<String> = state.gateway.dead_engines().iter().map(ToString::to_string).collect();
    let (status, word) = if dead_engines.is_empty() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "failing")
    };
    (status, Json(HealthAnswer { status: word.into(), dead_engines })).into_response()
}

/// 200 once the first loads are over, while the stable version of every model is hot, until shutdown begins.
#[utoipa::path(get, path = "/ready", tag = "operations",
    params(("verbose" = Option<bool>, Query, description = "Tell of the configuration, too; `?verbose` will do")),
    responses(
    (status = 200, description = "Send requests", body = ReadyAnswer),
    (status = 503, description = "Do not yet, or no more", body = ReadyAnswer),
))]
pub(super) async fn ready(State(state): State<PublicState>, RawQuery(query): RawQuery) -> Response {
    let reasons = state.gateway.not_ready();
    let is_verbose = query
        .iter()
        .flat_map(|query| query.split('&'))
        .any(|word| matches!(word, "verbose" | "verbose=true" | "verbose=1"));
    let config = is_verbose.then(|| ConfigAnswer::of(&state.gateway).withheld());
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ReadyAnswer { ready: reasons.is_empty(), reasons, config })).into_response()
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, description = "Metrics", body = String, content_type = "text/plain"),
    (status = "5XX", description = "A defect", body = ErrorBody),
))]
pub(super) async fn metrics(State(state): State<PublicState>) -> Result<Response, ApiError> {
    let text = state.gateway.render_metrics().map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses(
    (status = 200, description = "The OpenAPI document", body = Object),
))]
pub(super) async fn openapi() -> Response {
    Json(PublicApi::openapi()).into_response()
}
