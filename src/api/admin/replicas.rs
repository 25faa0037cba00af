//! The operators' view of replicas: which this is, and who leads.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::handlers::AdminState;
use crate::gateway::{Reach, ReplicaStatus};

/// This replica, and who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaAnswer {
    /// Its name, host and process; null where the server has its store for itself.
    pub replica: Option<String>,
    /// Whether it leads: advances rollouts and experiments, runs suites, delivers webhooks.
    pub leads: bool,
    /// Whether the store can be reached.
    pub store_reachable: bool,
    /// If not, why.
    pub store_error: Option<String>,
    /// Who leads, or led last; null where the server has its store for itself, or the store cannot be reached.
    pub leader: Option<LeaderAnswer>,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaderAnswer {
    /// Its name.
    pub replica: String,
    /// Counts the leaders there have been.
    pub term: i64,
    /// Since when, in RFC 3339.
    pub since: String,
}

/// Which replica this is, and which leads.
#[utoipa::path(get, path = "/admin/replica", tag = "admin", responses(
    (status = 200, description = "The replica", body = ReplicaAnswer),
))]
pub(in crate::api) async fn get_replica(State(state): State<AdminState>) -> Json<ReplicaAnswer> {
    let ReplicaStatus { name, leads, reach, leader } = state.gateway.replica().await;
    let store_error = match reach {
        Reach::Reachable => None,
        Reach::Lost { why } => Some(why.to_string()),
    };
    Json(ReplicaAnswer {
        replica: name,
        leads,
        store_reachable: store_error.is_none(),
        store_error,
        leader: leader.map(|leader| LeaderAnswer {
            replica: leader.replica,
            term: leader.term,
            since: leader.since.to_string(),
        }),
    })
}
