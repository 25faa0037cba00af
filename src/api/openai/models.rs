//! GET /v1/models: each model, and each of its versions as `model@version`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::error::{ApiError, ErrorBody};
use crate::api::extract::PathParam;
use crate::api::public::PublicState;
use crate::gateway::{Gateway, GatewayError, ModelStatus};

/// All models.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<ModelCard>,
}

/// A model or a version of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelCard {
    /// What to write in `model`.
    pub id: String,
    /// `model`.
    pub object: String,
    /// Unix time in seconds at which the server started.
    pub created: u64,
    /// `switchback`.
    pub owned_by: String,
    /// Of a version: its model.
    pub parent: Option<String>,
    /// The most tokens of prompt and answer; of a model, the least of its hot versions. Null where none is hot.
    pub max_model_len: Option<usize>,
}

fn cards(gateway: &Gateway) -> Vec<ModelCard> {
    let created = gateway.started_at();
    gateway.models().iter().flat_map(|model| cards_of(model, created)).collect()
}

fn cards_of(model: &ModelStatus, created: u64) -> Vec<ModelCard> {
    let card = |id: String, parent, max_model_len| ModelCard {
        id,
        object: "model".into(),
        created,
        owned_by: "switchback".into(),
        parent,
        max_model_len,
    };
    let versions: Vec<_> = model
        .versions
        .iter()
        .map(|v| card(v.version.to_string(), Some(model.model.to_string()), v.max_context()))
        .collect();
    let least = versions.iter().filter_map(|v| v.max_model_len).min();
    std::iter::once(card(model.model.to_string(), None, least)).chain(versions).collect()
}

/// Lists each model, and each of its versions.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses(
    (status = 200, description = "The models", body = ModelList),
))]
pub(in crate::api) async fn list_models(State(state): State<PublicState>) -> Json<ModelList> {
    Json(ModelList { object: "list".into(), data: cards(&state.gateway) })
}

/// One model or version.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "A model, or `model@version`")),
    responses(
        (status = 200, description = "The model", body = ModelCard),
        (status = 404, description = "There is none", body = ErrorBody),
    ),
)]
pub(in crate::api) async fn retrieve_model(
    State(state): State<PublicState>,
    PathParam(id): PathParam<String>,
) -> Result<Json<ModelCard>, ApiError> {
    let found = cards(&state.gateway).into_iter().find(|card| card.id == id);
    found.map(Json).ok_or_else(|| GatewayError::unknown_model(&id).into())
}
