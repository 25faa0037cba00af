//! The operators' endpoints. A handler parses, calls the gateway, and writes what it says.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::OpenApi;

use super::guard::{Hosts, refuse_web_pages};
use super::types::{
    AuditAnswer, AuditLine, ChangeBody, LoadBody, ModelsAnswer, RollbackTarget, RouteAnswer, RouteBody,
    UnloadAnswer, UnloadBody, VersionAnswer,
};
use super::{config, experiments, flags, replicas, responses, rollouts, webhooks};
use crate::api::body::{read_object, typed};
use crate::api::error::{ApiError, ErrorBody, shown};
use crate::api::extract::PathParam;
use crate::api::openapi::AdminApi;
use crate::api::public::{framed, wrong_method};
use crate::config::ServerConfig;
use crate::gateway::{
    AdminError, AuditEntry, Change, Gateway, ReleaseError, ResidencyError, RouteView, StoreError,
};
use crate::ids::{MAX_ACTOR_CHARS, ModelName, VersionRef, is_actor};

const ACTOR: &str = "x-switchback-actor";
const MAX_LINES: u32 = 1000;

#[derive(Clone)]
pub(in crate::api) struct AdminState {
    pub(super) gateway: Gateway,
    body_limit: usize,
}

/// The operators' router. It asks for no key: bind it where only operators reach it. It refuses what a web page in
/// an operator's browser sends.
pub fn admin_router(gateway: Gateway, server: &ServerConfig) -> Router {
    let guard = from_fn_with_state(Hosts::reaching(server.admin), refuse_web_pages);
    let state = AdminState { gateway, body_limit: server.body_limit };
    let router = Router::new()
        .route("/admin/models", get(list_models))
        .route("/admin/models/{model}/route", get(get_route).put(put_route))
        .route("/admin/models/{model}/flags", get(flags::get_flags))
        .route("/admin/models/{model}/flag", put(flags::put_model_flag).patch(flags::patch_model_flag))
        .route(
            "/admin/models/{model}/versions/{version}/flag",
            put(flags::put_version_flag).patch(flags::patch_version_flag),
        )
        .route("/admin/models/{model}/rollback", post(rollback))
        .route("/admin/models/{model}/versions/{version}/load", post(load))
        .route("/admin/models/{model}/versions/{version}/unload", post(unload))
        .route("/admin/models/{model}/rollout", get(rollouts::get_rollout).post(rollouts::begin_rollout))
        .route("/admin/models/{model}/rollout/history", get(rollouts::rollout_history))
        .route("/admin/models/{model}/rollout/{command}", post(rollouts::command_rollout))
        .route(
            "/admin/models/{model}/experiment",
            get(experiments::get_experiment).post(experiments::begin_experiment),
        )
        .route("/admin/models/{model}/experiment/history", get(experiments::experiment_history))
        .route("/admin/models/{model}/experiment/stop", post(experiments::stop_experiment))
        .route("/admin/config", get(config::get_config))
        .route("/admin/config/plan", post(config::plan_config))
        .route("/admin/responses/{id}", get(responses::get_response))
        .route("/admin/audit", get(audit))
        .route("/admin/replica", get(replicas::get_replica))
        .route("/admin/webhooks", get(webhooks::get_webhooks))
        .route("/openapi.json", get(|| async { Json(AdminApi::openapi()) }))
        .method_not_allowed_fallback(wrong_method)
        .layer(guard);
    framed(router, &state.gateway).with_state(state)
}

/// Who changes something: the header `x-switchback-actor`, else `admin`.
pub(in crate::api) struct Actor(String);

impl<S: Send + Sync> FromRequestParts<S> for Actor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(ACTOR) else { return Ok(Self("admin".into())) };
        // Names are not all ASCII.
        let name = std::str::from_utf8(value.as_bytes()).ok();
        match name.filter(|name| is_actor(name)) {
            Some(name) => Ok(Self(name.to_owned())),
            None => Err(ApiError::parameter(
                "invalid_value",
                ACTOR,
                format!(
                    "the header `{ACTOR}` must be 1 to {MAX_ACTOR_CHARS} characters in UTF-8, without control characters"
                ),
            )),
        }
    }
}

impl Actor {
    pub(super) fn change(self, reason: Option<String>) -> Change {
        // PostgreSQL takes no text with it
        let reason = reason.unwrap_or_default().replace('\0', "\u{fffd}");
        Change { actor: self.0, reason }
    }
}

/// A JSON body; one that is not there at all counts as `{}`.
pub(in crate::api) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<AdminState> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AdminState) -> Result<Self, ApiError> {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
        let absent = length.map_or(!headers.contains_key(header::TRANSFER_ENCODING), |v| v == "0");
        let map =
            if absent { serde_json::Map::new() } else { read_object(request, state.body_limit).await? };
        typed(&map).map(Self)
    }
}

pub(super) fn model_of(gateway: &Gateway, text: &str) -> Result<ModelName, ApiError> {
    let model = text.parse::<ModelName>().ok().filter(|name| gateway.model(name).is_some());
    model.ok_or_else(|| not_found("model_not_found", format!("the model {} is not configured", shown(text))))
}

pub(super) fn version_of(gateway: &Gateway, model: &str, version: &str) -> Result<VersionRef, ApiError> {
    let model = model_of(gateway, model)?;
    let name = version.parse().ok().map(|version| VersionRef { model: model.clone(), version });
    name.filter(|version| gateway.version(version).is_some())
        .ok_or_else(|| not_found("version_not_found", format!("`{model}` has no version {}", shown(version))))
}

/// How many lines are asked for: `limit` of the query, 100 if absent.
pub(super) fn limit_of(query: &BTreeMap<String, String>) -> Result<u32, ApiError> {
    let Some(text) = query.get("limit") else { return Ok(100) };
    text.parse().ok().filter(|limit| (1..=MAX_LINES).contains(limit)).ok_or_else(|| {
        let message = format!("`limit` must be from 1 to {MAX_LINES}; found {}", shown(text));
        ApiError::parameter("invalid_value", "limit", message)
    })
}

fn not_found(code: &'static str, message: String) -> ApiError {
    ApiError::request(StatusCode::NOT_FOUND, code, message)
}

/// All models with their versions.
#[utoipa::path(get, path = "/admin/models", tag = "admin", responses(
    (status = 200, description = "The models", body = ModelsAnswer),
))]
pub(in crate::api) async fn list_models(State(state): State<AdminState>) -> Json<ModelsAnswer> {
    Json(ModelsAnswer { models: state.gateway.models().into_iter().map(Into::into).collect() })
}

/// A model's route.
#[utoipa::path(get, path = "/admin/models/{model}/route", tag = "admin",
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The route", body = RouteAnswer),
    (status = 404, description = "No such model", body = ErrorBody),
))]
pub(in crate::api) async fn get_route(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
) -> Result<Json<RouteAnswer>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    Ok(Json(state.gateway.route(&model)?.into()))
}

/// Sets a model's weights. In force for the next request, and durable, when it answers.
#[utoipa::path(put, path = "/admin/models/{model}/route", tag = "admin", request_body = RouteBody,
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The new route", body = RouteAnswer),
    (status = "4XX", description = "The weights are at fault, or a version is not hot", body = ErrorBody),
))]
pub(in crate::api) async fn put_route(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    actor: Actor,
    Body(body): Body<RouteBody>,
) -> Result<Json<RouteAnswer>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    let view = state.gateway.set_weights(&model, body.weights, actor.change(body.reason)).await?;
    Ok(Json(view.into()))
}

/// Goes back to the last stable route.
#[utoipa::path(post, path = "/admin/models/{model}/rollback", tag = "admin", request_body = ChangeBody,
    params(("model" = String, Path, description = "The model")), responses(
    (status = 200, description = "The restored route", body = RouteAnswer),
    (status = 409, description = "There is nothing to go back to", body = ErrorBody),
))]
pub(in crate::api) async fn rollback(
    State(state): State<AdminState>,
    PathParam(model): PathParam<String>,
    actor: Actor,
    Body(body): Body<ChangeBody>,
) -> Result<Json<RouteAnswer>, ApiError> {
    let model = model_of(&state.gateway, &model)?;
    Ok(Json(state.gateway.rollback(&model, actor.change(body.reason)).await?.into()))
}

/// Loads a version; answers when it is there or has failed.
#[utoipa::path(post, path = "/admin/models/{model}/versions/{version}/load", tag = "admin",
    request_body = LoadBody,
    params(
        ("model" = String, Path, description = "The model"),
        ("version" = String, Path, description = "The version"),
    ),
    responses(
        (status = 200, description = "The version is where it was to go, or farther", body = VersionAnswer),
        (status = 409, description = "It is on its way in or out already", body = ErrorBody),
        (status = 422, description = "It could not be loaded", body = ErrorBody),
    ),
)]
pub(in crate::api) async fn load(
    State(state): State<AdminState>,
    PathParam((model, version)): PathParam<(String, String)>,
    actor: Actor,
    Body(body): Body<LoadBody>,
) -> Result<Json<VersionAnswer>, ApiError> {
    let version = version_of(&state.gateway, &model, &version)?;
    Ok(Json(state.gateway.load(&version, body.to.into(), actor.change(body.reason)).await?.into()))
}

/// Unloads a version without weight; answers when it has finished what it had.
#[utoipa::path(post, path = "/admin/models/{model}/versions/{version}/unload", tag = "admin",
    request_body = UnloadBody,
    params(
        ("model" = String, Path, description = "The model"),
        ("version" = String, Path, description = "The version"),
    ),
    responses(
        (status = 200, description = "The version is where it was to go", body = UnloadAnswer),
        (status = 409, description = "It has weight, or is on its way in or out already", body = ErrorBody),
    ),
)]
pub(in crate::api) async fn unload(
    State(state): State<AdminState>,
    PathParam((model, version)): PathParam<(String, String)>,
    actor: Actor,
    Body(body): Body<UnloadBody>,
) -> Result<Json<UnloadAnswer>, ApiError> {
    let version = version_of(&state.gateway, &model, &version)?;
    Ok(Json(state.gateway.unload(&version, body.to.into(), actor.change(body.reason)).await?.into()))
}

/// What the audit log is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct AuditQuery {
    model: Option<String>,
    limit: Option<u32>,
}

/// Who changed what, the newest first.
#[utoipa::path(get, path = "/admin/audit", tag = "admin",
    params(
        ("model" = Option<String>, Query, description = "Of one model only"),
        ("limit" = Option<u32>, Query, description = "At most this many, 1 to 1000; 100 if absent"),
    ),
    responses((status = 200, description = "The entries", body = AuditAnswer)),
)]
pub(in crate::api) async fn audit(
    State(state): State<AdminState>,
    query: Result<Query<AuditQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let invalid = |message: String| ApiError::request(StatusCode::BAD_REQUEST, "invalid_value", message);
    let Query(query) = query.map_err(|e| invalid(e.body_text()))?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=MAX_LINES).contains(&limit) {
        let message = format!("`limit` must be from 1 to {MAX_LINES}; found {limit}");
        return Err(ApiError::parameter("invalid_value", "limit", message));
    }
    let model = query.model.map(|name| model_of(&state.gateway, &name)).transpose()?;
    let entries = state.gateway.audit(limit, model).await?.into_iter().map(AuditLine::from).collect();
    Ok(Json(AuditAnswer { entries }).into_response())
}

impl From<RouteView> for RouteAnswer {
    fn from(view: RouteView) -> Self {
        Self {
            model: view.model,
            weights: view.weights,
            revision: view.revision,
            stable: view.stable,
            canary: view.canary,
            rollback_target: view
                .rollback_target
                .map(|t| RollbackTarget { revision: t.revision, version: t.version }),
        }
    }
}

impl From<AuditEntry> for AuditLine {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            at: entry.at.to_string(),
            actor: entry.actor,
            action: entry.action,
            model: entry.model,
            detail: entry.detail,
            reason: entry.reason,
        }
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        let message = error.to_string();
        let conflict = |code: &'static str| Self::request(StatusCode::CONFLICT, code, message.clone());
        match error {
            AdminError::UnknownModel(_)
            | AdminError::Release(ReleaseError::UnknownModel { .. })
            | AdminError::Residency(ResidencyError::Unknown(_)) => not_found("model_not_found", message),
            AdminError::NoAnswer { .. } => not_found("response_not_found", message),
            AdminError::Release(ReleaseError::UnknownVersion { .. } | ReleaseError::SumNot100 { .. }) => {
                Self::parameter("invalid_value", "weights", message)
            }
            AdminError::Release(ReleaseError::Flag(fault)) => {
                Self::parameter("invalid_value", fault.field, message)
            }
            AdminError::Release(ReleaseError::FlagLeadsNowhere { .. }) => {
                Self::parameter("invalid_value", "otherwise", message)
            }
            AdminError::Release(ReleaseError::NotHot { .. }) => conflict("version_not_hot"),
            AdminError::Release(ReleaseError::HasWeight { .. }) => conflict("version_has_weight"),
            AdminError::Release(ReleaseError::NothingToRollBackTo { .. }) => {
                conflict("nothing_to_roll_back_to")
            }
            AdminError::Release(ReleaseError::RolloutRuns { .. }) => conflict("rollout_runs"),
            AdminError::Release(ReleaseError::ExperimentRuns { .. }) => conflict("experiment_runs"),
            AdminError::Release(ReleaseError::NoExperiment { .. }) => conflict("no_experiment_runs"),
            AdminError::Release(ReleaseError::NotControl { .. }) => conflict("version_is_not_stable"),
            AdminError::NothingToCompare(_) => conflict("nothing_to_compare"),
            AdminError::Release(ReleaseError::SameArms { .. }) => {
                Self::parameter("invalid_value", "treatment", message)
            }
            AdminError::Release(ReleaseError::RouteIsSplit { .. }) => conflict("route_is_split"),
            AdminError::Release(ReleaseError::Refused(_) | ReleaseError::NoSuchRollout { .. })
            | AdminError::NoRollout(_) => conflict("rollout_not_in_that_state"),
            AdminError::Release(ReleaseError::SameVersion(_)) => {
                Self::parameter("invalid_value", "canary", message)
            }
            AdminError::UnknownPolicy(_) => Self::parameter("invalid_value", "policy", message),
            AdminError::Release(ReleaseError::Store(StoreError::Lost { .. })) => {
                Self::busy("store_unavailable", message)
            }
            AdminError::Release(ReleaseError::Store(StoreError::InDoubt { .. })) => {
                Self::busy("store_in_doubt", message)
            }
            AdminError::Release(ReleaseError::Store(StoreError::Busy)) => Self::busy("store_busy", message),
            AdminError::Release(_) => {
                tracing::error!(%message, "a change could not be stored");
                Self::internal(message)
            }
            AdminError::Residency(ResidencyError::Busy { .. }) => conflict("version_busy"),
            AdminError::Residency(ResidencyError::Failed { .. }) => {
                Self::request(StatusCode::UNPROCESSABLE_ENTITY, "load_failed", message)
            }
        }
    }
}
