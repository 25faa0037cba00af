//! The operators' view of webhooks: who is told what, and what became of it.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::handlers::{AdminState, limit_of};
use crate::api::error::ApiError;
use crate::config::Phase;
use crate::gateway::{DeliveryRow, ReceiverStatus};
use crate::ids::ModelName;

/// All webhooks, and the newest deliveries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WebhooksAnswer {
    /// The configured receivers.
    pub webhooks: Vec<WebhookAnswer>,
    /// The newest deliveries to any, the newest first.
    pub deliveries: Vec<DeliveryAnswer>,
}

/// A receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WebhookAnswer {
    /// Its host, and digits that tell the addresses of one host apart. The rest of its URL may be a secret.
    pub receiver: String,
    /// `slack` or `json`.
    pub format: String,
    /// What it is told.
    pub events: Vec<String>,
    /// Whether bodies are signed.
    pub signed: bool,
    /// Deliveries that are to be made.
    pub pending: u64,
    /// Deliveries that were made; old ones are no longer counted.
    pub delivered: u64,
    /// Deliveries that were given up; old ones are no longer counted.
    pub dead: u64,
    /// When the next delivery is tried again, in RFC 3339; null where none waits.
    pub next_attempt_at: Option<String>,
    /// What the newest delivery that had a failure failed of.
    pub last_error: Option<String>,
}

/// One event on its way to one receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryAnswer {
    /// Its number, which the receiver gets too.
    pub id: i64,
    /// The receiver.
    pub receiver: String,
    /// The state that the rollout has come to.
    pub event: String,
    /// The model.
    #[schema(value_type = String)]
    pub model: ModelName,
    /// The rollout.
    pub rollout: u32,
    /// When it happened, in RFC 3339.
    pub at: String,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    /// Attempts that have failed.
    pub attempts: u32,
    /// When it was delivered or given up.
    pub settled_at: Option<String>,
    /// What the last attempt that failed failed of.
    pub last_error: Option<String>,
}

/// Webhooks, and the newest deliveries to them.
#[utoipa::path(get, path = "/admin/webhooks", tag = "admin",
    params(("limit" = Option<u32>, Query, description = "At most this many deliveries, 1 to 1000; 100 if absent")),
    responses((status = 200, description = "The webhooks", body = WebhooksAnswer)),
)]
pub(in crate::api) async fn get_webhooks(
    State(state): State<AdminState>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Json<WebhooksAnswer>, ApiError> {
    let limit = limit_of(&query)?;
    let webhooks = state.gateway.webhooks().await?.into_iter().map(WebhookAnswer::from).collect();
    let deliveries = state.gateway.webhook_deliveries(limit).await?;
    Ok(Json(WebhooksAnswer {
        webhooks,
        deliveries: deliveries.into_iter().map(DeliveryAnswer::from).collect(),
    }))
}

impl From<ReceiverStatus> for WebhookAnswer {
    fn from(status: ReceiverStatus) -> Self {
        let ReceiverStatus { receiver, format, events, signed, counts, next, last_failure } = status;
        Self {
            receiver,
            format: format.as_str().to_owned(),
            events: events.into_iter().map(Phase::as_str).map(str::to_owned).collect(),
            signed,
            pending: counts.pending,
            delivered: counts.delivered,
            dead: counts.dead,
            next_attempt_at: next.map(|delivery| delivery.due_at.to_string()),
            last_error: last_failure.and_then(|delivery| delivery.last_error),
        }
    }
}

impl From<DeliveryRow> for DeliveryAnswer {
    fn from(row: DeliveryRow) -> Self {
        let DeliveryRow { id, receiver, notice, state, attempts, settled_at, last_error, .. } = row;
        Self {
            id,
            receiver,
            event: notice.event,
            model: notice.model,
            rollout: notice.rollout.number(),
            at: notice.at.to_string(),
            state: state.as_str().to_owned(),
            attempts,
            settled_at: settled_at.map(|at| at.to_string()),
            last_error,
        }
    }
}
