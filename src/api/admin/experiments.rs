//! The operators' endpoints of experiments.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::handlers::limit_of;
use super::handlers::{Actor, AdminState, Body, model_of, version_of};
use super::types::ChangeBody;
use crate::api::error::{ApiError, ErrorBody, shown};
use crate::api::extract::PathParam;
use crate::config::{Chance, duration};
use crate::gateway::{ArmMeasure, Bounds, Difference, ExperimentReport, NewExperiment, Unit};
use crate::ids::{ModelName, VersionName, Weight};

/// The longest name.
const MAX_NAME: usize = 64;

/// An experiment that is to begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentBody {
    /// The version that has all traffic.
    #[schema(value_type = String)]
    pub control: VersionName,
    /// The version that is tried.
    #[schema(value_type = String)]
    pub treatment: VersionName,
    /// The treatment's percentage of the users, above 0 and below 100.
    #[schema(value_type = f64)]
    pub percentage: Weight,
    /// How long, such as `24h`; until it is stopped if absent.
    #[serde(default)]
    pub duration: Option<String>,
    /// What to call it.
    #[serde(default)]
    pub name: Option<String>,
    /// Of each interval, at all looks together; 0.95 if absent.
    #[serde(default)]
    pub confidence: Option<f64>,
    /// Why, for the audit log.
    #[serde(default)]
    pub reason: Option<String>,
}

/// An experiment, and what is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentAnswer {
    /// Its number.
    pub id: u32,
    /// What it is called.
    pub name: Option<String>,
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The version that the other is compared with.
    #[schema(value_type = String)]
    pub control: VersionName,
    /// The version that is tried.
    #[schema(value_type = String)]
    pub treatment: VersionName,
    /// The treatment's percentage of the users.
    #[schema(value_type = f64)]
    pub percentage: Weight,
    /// Of each interval, at all looks together.
    pub confidence: f64,
    /// `running` or `ended`.
    pub phase: String,
    /// When it began, in RFC 3339.
    pub started_at: String,
    /// Who began it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When it is over; null until an operator stops it.
    pub ends_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Why it ended, in a sentence.
    pub ending: Option<String>,
    /// What is known of each measure, or was at its end; `overall` first.
    pub results: Vec<ExperimentResult>,
}

/// What is known of one measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentResult {
    /// A check, `overall`, `finished`, `output_tokens`, `latency_seconds`, `time_to_first_token_seconds` or
    /// `time_per_output_token_seconds`.
    pub measure: String,
    /// `share`, `tokens` or `seconds`.
    pub unit: String,
    /// Control's answers.
    pub control: ExperimentArm,
    /// The treatment's.
    pub treatment: ExperimentArm,
    /// Treatment less control of a `share`, treatment over control less 1 of the others; null before there are enough
    /// users.
    pub difference: Option<ExperimentDifference>,
    /// The same in one sentence.
    pub sentence: String,
}

/// One version's answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentArm {
    /// How many were measured.
    pub answers: u64,
    /// Of how many users.
    pub users: usize,
    /// Their mean.
    pub mean: Option<f64>,
}

/// A difference and where it lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentDifference {
    /// The best guess.
    pub estimate: f64,
    /// The least that it is.
    pub low: f64,
    /// The most that it is.
    pub high: f64,
    /// Whether 0 is outside.
    pub differs: bool,
}

/// The experiment of a model that runs, else the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CurrentExperiment {
    /// Null where there was none.
    pub experiment: Option<ExperimentAnswer>,
}

/// Experiments of a model, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExperimentHistory {
    /// The experiments.
    pub experiments: Vec<ExperimentAnswer>,
}

/// The experiment of a model that runs, else the last one, with what is known of it.
#[utoipa::path(get, path = "/admin/models/{model}/experiment", tag = "admin",
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The experiment", body = CurrentExperiment),
    (status = 404, description = "No such model", body = ErrorBody),
))]
pub(in crate::api) async fn get_experiment(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
) -> Result<Json<CurrentExperiment>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    let experiment = state.gateway.experiment(&model).await?.map(ExperimentAnswer::from);
    Ok(Json(CurrentExperiment { experiment }))
}

/// Begins an experiment; its route is in force when this answers.
#[utoipa::path(post, path = "/admin/models/{model}/experiment", tag = "admin", request_body = ExperimentBody,
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The experiment", body = ExperimentAnswer),
    (status = "4XX", description = "A version is not hot, control has not all traffic, or something else runs",
        body = ErrorBody),
))]
pub(in crate::api) async fn begin_experiment(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    actor: Actor,
    Body(body): Body<ExperimentBody>,
) -> Result<Json<ExperimentAnswer>, ApiError> {
    let control = version_of(&state.gateway, &model, body.control.as_str())?;
    let treatment = version_of(&state.gateway, &model, body.treatment.as_str())?;
    let wrong = |name: &'static str, message: String| ApiError::parameter("invalid_value", name, message);
    if body.percentage == Weight::ZERO || body.percentage == Weight::FULL {
        let message =
            format!("`percentage` of {} compares nothing: give one between 0 and 100", body.percentage);
        return Err(wrong("percentage", message));
    }
    if body.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > MAX_NAME) {
        return Err(wrong("name", format!("`name` must have 1 to {MAX_NAME} bytes")));
    }
    let confidence = body.confidence.unwrap_or(0.95);
    let confidence = Chance::new(confidence).filter(|chance| (0.5..=0.9999).contains(&chance.get()));
    let confidence = confidence
        .ok_or_else(|| wrong("confidence", "`confidence` must be from 0.5 to 0.9999, such as 0.95".into()))?;
    let long = |text: &String| -> Result<Duration, ApiError> {
        duration(text).filter(|duration| !duration.is_zero()).ok_or_else(|| {
            let message =
                format!("`duration` must be a number and s, m or h, such as 24h; found {}", shown(text));
            wrong("duration", message)
        })
    };
    let new = NewExperiment {
        model: control.model,
        name: body.name,
        control: control.version,
        treatment: treatment.version,
        share: body.percentage,
        confidence,
        duration: body.duration.as_ref().map(long).transpose()?,
    };
    let experiment = state.gateway.begin_experiment(new, actor.change(body.reason)).await?;
    let report = ExperimentReport { experiment: experiment.into(), known: [].into() };
    Ok(Json(ExperimentAnswer::from(report)))
}

/// Ends the experiment that runs: control gets all traffic.
#[utoipa::path(post, path = "/admin/models/{model}/experiment/stop", tag = "admin", request_body = ChangeBody,
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The experiment with its results", body = CurrentExperiment),
    (status = 409, description = "None runs", body = ErrorBody),
))]
pub(in crate::api) async fn stop_experiment(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    actor: Actor,
    Body(body): Body<ChangeBody>,
) -> Result<Json<CurrentExperiment>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    let report = state.gateway.stop_experiment(&model, actor.change(body.reason)).await?;
    Ok(Json(CurrentExperiment { experiment: report.map(ExperimentAnswer::from) }))
}

/// The experiments of a model, the newest first.
#[utoipa::path(get, path = "/admin/models/{model}/experiment/history", tag = "admin",
    params(
        ("model" = String, Path, description = "The model"),
        ("limit" = Option<u32>, Query, description = "At most this many, 1 to 1000; 100 if absent"),
    ),
    responses((status = 200, description = "The experiments", body = ExperimentHistory)),
)]
pub(in crate::api) async fn experiment_history(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Json<ExperimentHistory>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    let experiments = state.gateway.experiments(&model, limit_of(&query)?).await?;
    Ok(Json(ExperimentHistory { experiments: experiments.into_iter().map(ExperimentAnswer::from).collect() }))
}

impl From<ExperimentReport> for ExperimentAnswer {
    fn from(ExperimentReport { experiment, known }: ExperimentReport) -> Self {
        let ended = experiment.ended.as_ref();
        Self {
            id: experiment.id.number(),
            name: experiment.name.clone(),
            model: experiment.model.clone(),
            control: experiment.control.clone(),
            treatment: experiment.treatment.clone(),
            percentage: experiment.share,
            confidence: experiment.confidence.get(),
            phase: if ended.is_some() { "ended" } else { "running" }.to_owned(),
            started_at: experiment.started_at.to_string(),
            actor: experiment.by.actor.clone(),
            reason: experiment.by.reason.clone(),
            ends_at: experiment.ends_at.map(|at| at.to_string()),
            ended_at: ended.map(|ended| ended.at.to_string()),
            ending: ended.map(|ended| ended.reason.clone()),
            results: known.iter().map(ExperimentResult::from).collect(),
        }
    }
}

impl From<&Difference> for ExperimentResult {
    fn from(known: &Difference) -> Self {
        let arm = |arm: ArmMeasure| {
            let ArmMeasure { answers, users, mean } = arm;
            ExperimentArm { answers, users, mean }
        };
        let differs = known.differs();
        let difference = known.difference.map(|Bounds { estimate, low, high }| ExperimentDifference {
            estimate,
            low,
            high,
            differs,
        });
        let unit = match known.unit {
            Unit::Share => "share",
            Unit::Tokens => "tokens",
            Unit::Seconds => "seconds",
        };
        Self {
            measure: known.measure.clone(),
            unit: unit.to_owned(),
            control: arm(known.control),
            treatment: arm(known.treatment),
            difference,
            sentence: known.to_string(),
        }
    }
}
