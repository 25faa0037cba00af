//! POST /v1/feedback: what a user thinks of an answer.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json_};
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::extract::Object;
use super::fields::FEEDBACK;
use super::public::PublicState;
use crate::gateway::FeedbackError;
use crate::ids::{IdError, ResponseId, Score};

/// What a user thinks of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackBody {
    /// The `id` of the answer.
    pub response_id: String,
    /// From 0 (bad) to 1 (good); a thumb is one of the two.
    pub score: f64,
}

/// What it was counted as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackAnswer {
    /// `feedback`.
    pub object: String,
    /// The `id` of the answer.
    pub response_id: String,
    /// The version that had answered, as `model@version`.
    pub version: String,
    /// Whether the score reaches the threshold of the model's `feedback` check.
    pub passed: bool,
}

/// Counts what a user thinks of an answer; the first word about an answer counts.
#[utoipa::path(post, path = "/v1/feedback", tag = "switchback", request_body = FeedbackBody, responses(
    (status = 200, description = "It was counted", body = FeedbackAnswer),
    (status = 404, description = "No such answer is remembered", body = ErrorBody),
    (status = 409, description = "The answer has had its feedback", body = ErrorBody),
    (status = 503, description = "Too much comes at once; try again", body = ErrorBody),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
))]
pub(super) async fn feedback(
    State(state): State<PublicState>,
    Object(map): Object,
) -> Result<Json<FeedbackAnswer>, ApiError> {
    FEEDBACK.check(&map)?;
    let text = needed(&map, "response_id")?.as_str().ok_or_else(|| wrong("response_id", "a text"))?;
    let response: ResponseId = text.parse().map_err(|error: IdError| invalid("response_id", &error))?;
    let score = needed(&map, "score")?.as_f64().ok_or_else(|| wrong("score", "a number from 0 to 1"))?;
    let score = Score::new(score).map_err(|error| invalid("score", &error))?;
    let rated = state.gateway.feedback(response, score).await?;
    Ok(Json(FeedbackAnswer {
        object: "feedback".to_owned(),
        response_id: text.to_owned(),
        version: rated.version.to_string(),
        passed: rated.passed,
    }))
}

fn needed<'m>(map: &'m Map<String, Json_>, name: &'static str) -> Result<&'m Json_, ApiError> {
    map.get(name).filter(|value| !value.is_null()).ok_or_else(|| {
        let message =
            format!("`{name}` is required: send {{\"response_id\": \"chatcmpl-..\", \"score\": 1}}");
        ApiError::parameter("missing_required_parameter", name, message)
    })
}

fn wrong(name: &'static str, wanted: &str) -> ApiError {
    ApiError::parameter("invalid_type", name, format!("`{name}` must be {wanted}"))
}

fn invalid(name: &'static str, error: &IdError) -> ApiError {
    ApiError::parameter("invalid_value", name, format!("`{name}`: {error}"))
}

impl From<FeedbackError> for ApiError {
    fn from(error: FeedbackError) -> Self {
        let message = error.to_string();
        match error {
            FeedbackError::Unknown => Self::request(StatusCode::NOT_FOUND, "response_not_found", message),
            FeedbackError::Given => Self::request(StatusCode::CONFLICT, "feedback_given", message),
            FeedbackError::Busy => Self::busy("feedback_busy", message),
        }
    }
}
