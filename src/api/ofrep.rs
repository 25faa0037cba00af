//! The flags as `OpenFeature`'s Remote Evaluation Protocol has them (OFREP 0.2), so that applications ask by its providers
//! whether a user gets a model or a version, and which.
//!
//! A model has two flags: `desk`, whether it is open to a user, and `desk:version`, the version that his requests get; each
//! version has one: `desk@v4`. The context's `targetingKey` is the user's sticky key; its other attributes stand for the
//! headers of those names, which cohorts may ask for.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::extract::{Object, PathParam};
use super::public::PublicState;
use crate::gateway::{DecidedBy, Evaluation, FlagKey, FlagValue, Gateway, StickyKey};

/// What is asked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EvaluationRequest {
    /// `targetingKey`, the user's sticky key, and headers by their names.
    #[schema(value_type = Object)]
    pub context: Map<String, Value>,
}

/// What a flag says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluationAnswer {
    /// The flag.
    pub key: String,
    /// True or false, or a version. There is none where the model is closed to the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
    /// `STATIC`, `DISABLED`, `TARGETING_MATCH`, `DEFAULT` or `SPLIT`.
    pub reason: String,
    /// `on` or `off`, or the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The model, and the version that it is of.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
}

/// What is wrong with a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationFailure {
    /// The flag, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `FLAG_NOT_FOUND`, `TARGETING_KEY_MISSING` or `INVALID_CONTEXT`.
    pub error_code: String,
    /// What was found and what would do.
    pub error_details: String,
}

/// All flags.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BulkAnswer {
    /// By model and version.
    pub flags: Vec<EvaluationAnswer>,
}

/// Who asks: the sticky key, and what stands for headers.
struct Context {
    key: StickyKey,
    attributes: Map<String, Value>,
}

impl Context {
    fn of(body: &Map<String, Value>, flag: Option<&str>) -> Result<Self, Failure> {
        let failure = |code: &str, details: String| Failure {
            status: StatusCode::BAD_REQUEST,
            body: EvaluationFailure {
                key: flag.map(str::to_owned),
                error_code: code.to_owned(),
                error_details: details,
            },
        };
        let Some(Value::Object(attributes)) = body.get("context") else {
            let details = "send {\"context\": {\"targetingKey\": \"<user>\"}}".to_owned();
            return Err(failure("INVALID_CONTEXT", details));
        };
        let user = attributes.get("targetingKey").and_then(Value::as_str).filter(|user| !user.is_empty());
        let Some(user) = user else {
            let details =
                "`context.targetingKey` is missing: give the user's name, as requests send it".to_owned();
            return Err(failure("TARGETING_KEY_MISSING", details));
        };
        Ok(Self { key: StickyKey::from_user(super::caller::cut(user)), attributes: attributes.clone() })
    }

    /// What stands for a header; names of headers are in small letters, and attributes may be written otherwise.
    fn header(&self, name: &str) -> Option<String> {
        let found = self.attributes.iter().find(|(attribute, _)| attribute.eq_ignore_ascii_case(name));
        match found?.1 {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        }
    }
}

/// An answer in OFREP's own words.
struct Failure {
    status: StatusCode,
    body: EvaluationFailure,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// What one flag says of a user.
#[utoipa::path(post, path = "/ofrep/v1/evaluate/flags/{key}", tag = "switchback", request_body = EvaluationRequest,
    params(("key" = String, Path, description = "`desk`, `desk@v4` or `desk:version`")), responses(
    (status = 200, description = "What it says", body = EvaluationAnswer),
    (status = 400, description = "The context is at fault", body = EvaluationFailure),
    (status = 404, description = "No such flag", body = EvaluationFailure),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
))]
pub(super) async fn evaluate(
    State(state): State<PublicState>,
    PathParam(key): PathParam<String>,
    Object(body): Object,
) -> Response {
    let context = match Context::of(&body, Some(&key)) {
        Ok(context) => context,
        Err(failure) => return failure.into_response(),
    };
    if let Some(flag) = state.gateway.flag_keys().into_iter().find(|flag| flag.to_string() == key) {
        return Json(evaluation(&state.gateway, &flag, &context)).into_response();
    }
    let error_details = "there is no such flag: POST /ofrep/v1/evaluate/flags tells all flags".to_owned();
    let body = EvaluationFailure { key: Some(key), error_code: "FLAG_NOT_FOUND".to_owned(), error_details };
    Failure { status: StatusCode::NOT_FOUND, body }.into_response()
}

/// What all flags say of a user. Who sends the `ETag` that he has is told if nothing has changed.
#[utoipa::path(post, path = "/ofrep/v1/evaluate/flags", tag = "switchback", request_body = EvaluationRequest, responses(
    (status = 200, description = "What they say", body = BulkAnswer),
    (status = 304, description = "The same as before"),
    (status = 400, description = "The context is at fault", body = EvaluationFailure),
    (status = "4XX", description = "The request is at fault", body = ErrorBody),
))]
pub(super) async fn evaluate_all(
    State(state): State<PublicState>,
    headers: HeaderMap,
    Object(body): Object,
) -> Result<Response, ApiError> {
    let context = match Context::of(&body, None) {
        Ok(context) => context,
        Err(failure) => return Ok(failure.into_response()),
    };
    let flags = state.gateway.flag_keys();
    let flags = flags.iter().map(|flag| evaluation(&state.gateway, flag, &context)).collect();
    let answer = serde_json::to_vec(&BulkAnswer { flags }).map_err(|_| ApiError::defect())?;
    let digest = crate::ids::Digest::from_bytes(Sha256::digest(&answer).into());
    let etag = format!("\"{}\"", digest.short());
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|known| known.trim() == etag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let json = (header::CONTENT_TYPE, "application/json".to_owned());
    Ok(([json, (header::ETAG, etag)], answer).into_response())
}

fn evaluation(gateway: &Gateway, flag: &FlagKey, context: &Context) -> EvaluationAnswer {
    let (value, Evaluation { lets_in, decided_by }) =
        gateway.evaluate_flag(flag, &context.key, |name| context.header(name));
    let reason = match decided_by {
        DecidedBy::Nothing => "STATIC",
        DecidedBy::Switch => "DISABLED",
        DecidedBy::Cohorts if lets_in => "TARGETING_MATCH",
        DecidedBy::Cohorts => "DEFAULT",
        DecidedBy::Percentage => "SPLIT",
    };
    let (value, variant) = match value {
        FlagValue::Open(open) => (Some(json!(open)), Some(if open { "on" } else { "off" }.to_owned())),
        FlagValue::Version(version) => {
            let version = version.map(|version| version.to_string());
            (version.clone().map(Value::String), version)
        }
    };
    let mut metadata = Map::from_iter([("model".to_owned(), json!(flag.model()))]);
    if let FlagKey::Version(version) = flag {
        metadata.insert("version".to_owned(), json!(version.version));
    }
    EvaluationAnswer { key: flag.to_string(), value, reason: reason.to_owned(), variant, metadata }
}
