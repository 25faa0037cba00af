//! The operators' endpoints of rollouts.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::handlers::{Actor, AdminState, Body, model_of, version_of};
use super::types::ChangeBody;
use crate::api::error::{ApiError, ErrorBody, shown};
use crate::api::extract::PathParam;
use crate::gateway::{OnConflict, Rollout, RolloutCommand, RolloutLine, WaitsFor};
use crate::ids::{ModelName, VersionName, Weight};

/// The most lines of a history in one answer.
const MAX_HISTORY: u32 = 1000;

/// A rollout that is to begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutBody {
    /// The version that is to have all traffic.
    #[schema(value_type = String)]
    pub canary: VersionName,
    /// A ready-made policy, or one of the configuration.
    pub policy: String,
    /// What becomes of a rollout of the model that runs: `refuse` (if absent) or `supersede`.
    #[serde(default)]
    pub on_conflict: Conflict,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What becomes of a rollout that runs when another is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// It goes on, and the new one is refused.
    #[default]
    Refuse,
    /// The new one takes its place.
    Supersede,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutAnswer {
    /// Its number.
    pub id: u32,
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The version that the canary is compared with.
    #[schema(value_type = String)]
    pub stable: VersionName,
    /// The version that is being rolled out.
    #[schema(value_type = String)]
    pub canary: VersionName,
    /// `pending`, `suite`, `step`, `paused`, `awaiting_approval`, `held`, `promoted`, `aborted`, `rolled_back` or
    /// `superseded`.
    pub phase: String,
    /// The step that it is in, from 1.
    pub step: Option<usize>,
    /// The steps of its policy.
    pub steps: usize,
    /// The canary's percentage.
    #[schema(value_type = f64)]
    pub weight: Weight,
    /// `continue`, `promote`, `abort` or `inconclusive`; null before the first look.
    pub verdict: Option<String>,
    /// Why, with its numbers.
    pub finding: Option<String>,
    /// What moves it next: `start`, `suite`, `time`, `resume`, `approval`, `verdict` or `nothing`.
    pub waits_for: String,
    /// When the step is over, where time moves it; RFC 3339.
    pub until: Option<String>,
    /// What an operator can do now.
    pub commands: Vec<String>,
    /// When it began, in RFC 3339.
    pub started_at: String,
}

/// The rollout of a model; null where there never was one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CurrentRollout {
    /// The one that runs, else the last one.
    pub rollout: Option<RolloutAnswer>,
}

/// What happened, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutHistory {
    /// The transitions.
    pub transitions: Vec<RolloutTransition>,
}

/// One transition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RolloutTransition {
    /// The rollout.
    pub rollout: u32,
    /// When, in RFC 3339.
    pub at: String,
    /// Where it was, such as `step 2`; null at its beginning.
    pub from: Option<String>,
    /// Where it went.
    pub to: String,
    /// The canary's percentage from then on.
    #[schema(value_type = f64)]
    pub weight: Weight,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// The rollout of a model that runs, else the last one.
#[utoipa::path(get, path = "/admin/models/{model}/rollout", tag = "admin",
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The rollout", body = CurrentRollout),
    (status = 404, description = "No such model", body = ErrorBody),
))]
pub(in crate::api) async fn get_rollout(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
) -> Result<Json<CurrentRollout>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    let rollout = state.gateway.rollout(&model).await?;
    Ok(Json(CurrentRollout { rollout: rollout.map(|rollout| RolloutAnswer::from(&*rollout)) }))
}

/// Begins a rollout; its first step is taken when this answers.
#[utoipa::path(post, path = "/admin/models/{model}/rollout", tag = "admin", request_body = RolloutBody,
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The rollout", body = RolloutAnswer),
    (status = "4XX", description = "The policy is not known, the canary is not hot, or another one runs", body = ErrorBody),
))]
pub(in crate::api) async fn begin_rollout(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    actor: Actor,
    Body(body): Body<RolloutBody>,
) -> Result<Json<RolloutAnswer>, ApiError> {
    let canary = version_of(&state.gateway, &model, body.canary.as_str())?;
    let model = canary.model;
    let conflict = match body.on_conflict {
        Conflict::Refuse => OnConflict::Refuse,
        Conflict::Supersede => OnConflict::Supersede,
    };
    let change = actor.change(body.reason);
    let begun = state.gateway.begin_rollout(&model, canary.version, &body.policy, conflict, change).await?;
    Ok(Json(RolloutAnswer::from(&begun)))
}

/// Does to the rollout that runs what an operator wants.
#[utoipa::path(post, path = "/admin/models/{model}/rollout/{command}", tag = "admin", request_body = ChangeBody,
    params(
        ("model" = String, Path, description = "The model"),
        ("command" = String, Path, description = "`pause`, `resume`, `promote`, `abort`, `skip` or `approve`"),
    ),
    responses(
        (status = 200, description = "The rollout after it", body = RolloutAnswer),
        (status = 409, description = "It makes no sense now", body = ErrorBody),
    ),
)]
pub(in crate::api) async fn command_rollout(
    State(state): State<AdminState>,
    PathParam((model, command)): PathParam<(String, String)>,
    actor: Actor,
    Body(body): Body<ChangeBody>,
) -> Result<Json<RolloutAnswer>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    let command =
        RolloutCommand::ALL.into_iter().find(|known| known.as_str() == command).ok_or_else(|| {
            let known: Vec<&str> = RolloutCommand::ALL.iter().map(|command| command.as_str()).collect();
            let message = format!(
                "{} is nothing that a rollout can be told; there are {}",
                shown(&command),
                known.join(", ")
            );
            ApiError::request(StatusCode::NOT_FOUND, "unknown_command", message)
        })?;
    let rollout = state.gateway.command_rollout(&model, command, actor.change(body.reason)).await?;
    Ok(Json(RolloutAnswer::from(&rollout)))
}

/// What happened in the rollouts of a model, the newest first.
#[utoipa::path(get, path = "/admin/models/{model}/rollout/history", tag = "admin",
    params(
        ("model" = String, Path, description = "The model"),
        ("limit" = Option<u32>, Query, description = "At most this many, 1 to 1000; 100 if absent"),
    ),
    responses((status = 200, description = "The transitions", body = RolloutHistory)),
)]
pub(in crate::api) async fn rollout_history(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Json<RolloutHistory>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    let limit = limit_of(&query)?;
    let lines = state.gateway.rollout_history(&model, limit).await?;
    Ok(Json(RolloutHistory { transitions: lines.into_iter().map(RolloutTransition::from).collect() }))
}

/// How many lines of a history are asked for.
pub(super) fn limit_of(query: &BTreeMap<String, String>) -> Result<u32, ApiError> {
    let Some(text) = query.get("limit") else { return Ok(100) };
    text.parse().ok().filter(|limit| (1..=MAX_HISTORY).contains(limit)).ok_or_else(|| {
        let message = format!("`limit` must be from 1 to {MAX_HISTORY}; found {}", shown(text));
        ApiError::parameter("invalid_value", "limit", message)
    })
}

impl From<&Rollout> for RolloutAnswer {
    fn from(rollout: &Rollout) -> Self {
        let (waits_for, until) = match rollout.waits_for() {
            WaitsFor::Start => ("start", None),
            WaitsFor::Suite => ("suite", None),
            WaitsFor::Until(at) => ("time", Some(at.to_string())),
            WaitsFor::Resume => ("resume", None),
            WaitsFor::Approval => ("approval", None),
            WaitsFor::Verdict => ("verdict", None),
            WaitsFor::Nothing => ("nothing", None),
        };
        Self {
            id: rollout.id.number(),
            model: rollout.model.clone(),
            stable: rollout.stable.clone(),
            canary: rollout.canary.clone(),
            phase: rollout.phase().as_str().to_owned(),
            step: rollout.state.step_number(),
            steps: rollout.policy.steps.len(),
            weight: rollout.weight,
            verdict: rollout.judged.as_ref().map(|judged| judged.verdict.to_string()),
            finding: rollout.judged.as_ref().map(|judged| judged.finding.clone()),
            waits_for: waits_for.to_owned(),
            until,
            commands: rollout.commands().iter().map(ToString::to_string).collect(),
            started_at: rollout.started_at.to_string(),
        }
    }
}

impl From<RolloutLine> for RolloutTransition {
    fn from(line: RolloutLine) -> Self {
        let RolloutLine { rollout, at, from, to, weight, actor, reason } = line;
        Self { rollout: rollout.number(), at: at.to_string(), from, to, weight, actor, reason }
    }
}
