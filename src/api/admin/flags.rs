//! The operators' endpoints of flags.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::handlers::{Actor, AdminState, Body, model_of, version_of};
use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::PathParam;
use crate::config::{Cohort, Flag, FlagOf, Otherwise};
use crate::gateway::{FlagChange, FlagsView};
use crate::ids::{ModelName, VersionName, VersionRef, Weight};

/// A flag, or what is to change of one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlagBody {
    /// False lets nobody in.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// The share of those in the cohorts that is let in.
    #[serde(default)]
    #[schema(value_type = Option<f64>)]
    pub percentage: Option<Weight>,
    /// Who may be let in: `{"header": "x-plan", "is": ["beta"]}`, `{"user_prefix": "staff-"}` or `{"users": ["ada"]}`.
    /// An empty list: everybody.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub cohorts: Option<Vec<Cohort>>,
    /// What the others get: `refuse`, a version, of a version's flag `rest`, or a text: `{"answer": "We are back at noon."}`.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub otherwise: Option<Otherwise>,
    /// Why, for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A flag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlagAnswer {
    /// Whether it lets anybody in.
    pub enabled: bool,
    /// The share of those in the cohorts that is let in.
    #[schema(value_type = f64)]
    pub percentage: Weight,
    /// Who may be let in; empty: everybody.
    #[schema(value_type = Vec<Object>)]
    pub cohorts: Vec<Cohort>,
    /// What the others get: a word, or `{"answer": "..."}`.
    #[schema(value_type = Value)]
    pub otherwise: Otherwise,
}

/// The flags of a model. One that nobody has set lets everybody in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlagsAnswer {
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// Its own flag.
    pub flag: FlagAnswer,
    /// The flags of its versions.
    #[schema(value_type = std::collections::BTreeMap<String, FlagAnswer>)]
    pub versions: BTreeMap<VersionName, FlagAnswer>,
}

/// The flags of a model and of its versions.
#[utoipa::path(get, path = "/admin/models/{model}/flags", tag = "admin",
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The flags", body = FlagsAnswer),
    (status = 404, description = "No such model", body = ErrorBody),
))]
pub(in crate::api) async fn get_flags(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
) -> Result<Json<FlagsAnswer>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    let view = state.gateway.flags(&model)?;
    Ok(Json(FlagsAnswer::new(model, view)))
}

/// Sets a model's flag; what is left out is as in a flag that lets everybody in. In force for the next request, and
/// durable, when it answers.
#[utoipa::path(put, path = "/admin/models/{model}/flag", tag = "admin", request_body = FlagBody,
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The flags", body = FlagsAnswer),
    (status = "4XX", description = "The flag is at fault", body = ErrorBody),
))]
pub(in crate::api) async fn put_model_flag(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    actor: Actor,
    Body(body): Body<FlagBody>,
) -> Result<Json<FlagsAnswer>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    set(&state, model, None, body.over(Flag::open(FlagOf::Model)), actor).await
}

/// Changes a model's flag; what is left out stays.
#[utoipa::path(patch, path = "/admin/models/{model}/flag", tag = "admin", request_body = FlagBody,
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The flags", body = FlagsAnswer),
    (status = "4XX", description = "The flag is at fault", body = ErrorBody),
))]
pub(in crate::api) async fn patch_model_flag(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    actor: Actor,
    Body(body): Body<FlagBody>,
) -> Result<Json<FlagsAnswer>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    set(&state, model, None, body, actor).await
}

/// Sets a version's flag; what is left out is as in a flag that lets everybody in.
#[utoipa::path(put, path = "/admin/models/{model}/versions/{version}/flag", tag = "admin", request_body = FlagBody,
    params(
        ("model" = String, Path, description = "The model"),
        ("version" = String, Path, description = "The version"),
    ),
    responses(
        (status = 200, description = "The flags", body = FlagsAnswer),
        (status = "4XX", description = "The flag is at fault", body = ErrorBody),
    ),
)]
pub(in crate::api) async fn put_version_flag(
    State(state): State<AdminState>,
    PathParam((model, version)): PathParam<(String, String)>,
    actor: Actor,
    Body(body): Body<FlagBody>,
) -> Result<Json<FlagsAnswer>, ApiError> {
    let VersionRef { model, version } = version_of(&state.gateway, &model, &version)?;
    set(&state, model, Some(version), body.over(Flag::open(FlagOf::Version)), actor).await
}

/// Changes a version's flag; what is left out stays.
#[utoipa::path(patch, path = "/admin/models/{model}/versions/{version}/flag", tag = "admin", request_body = FlagBody,
    params(
        ("model" = String, Path, description = "The model"),
        ("version" = String, Path, description = "The version"),
    ),
    responses(
        (status = 200, description = "The flags", body = FlagsAnswer),
        (status = "4XX", description = "The flag is at fault", body = ErrorBody),
    ),
)]
pub(in crate::api) async fn patch_version_flag(
    State(state): State<AdminState>,
    PathParam((model, version)): PathParam<(String, String)>,
    actor: Actor,
    Body(body): Body<FlagBody>,
) -> Result<Json<FlagsAnswer>, ApiError> {
    let VersionRef { model, version } = version_of(&state.gateway, &model, &version)?;
    set(&state, model, Some(version), body, actor).await
}

async fn set(
    state: &AdminState,
    model: ModelName,
    of: Option<VersionName>,
    body: FlagBody,
    actor: Actor,
) -> Result<Json<FlagsAnswer>, ApiError> {
    let FlagBody { enabled, percentage, cohorts, otherwise, reason } = body;
    let wanted = FlagChange { enabled, percentage, cohorts, otherwise };
    let view = state.gateway.set_flag(&model, of, wanted, actor.change(reason)).await?;
    Ok(Json(FlagsAnswer::new(model, view)))
}

impl FlagBody {
    /// Whole: what is left out is as in `base`.
    fn over(self, base: Flag) -> Self {
        Self {
            enabled: Some(self.enabled.unwrap_or(base.enabled)),
            percentage: Some(self.percentage.unwrap_or(base.percentage)),
            cohorts: Some(self.cohorts.unwrap_or(base.cohorts)),
            otherwise: Some(self.otherwise.unwrap_or(base.otherwise)),
            reason: self.reason,
        }
    }
}

impl FlagsAnswer {
    fn new(model: ModelName, view: FlagsView) -> Self {
        let versions = view.versions.into_iter().map(|(version, flag)| (version, flag.into())).collect();
        Self { model, flag: view.model.into(), versions }
    }
}

impl From<Flag> for FlagAnswer {
    fn from(flag: Flag) -> Self {
        let Flag { enabled, percentage, cohorts, otherwise } = flag;
        Self { enabled, percentage, cohorts, otherwise }
    }
}
