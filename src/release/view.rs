//! Routes and audit lines as operators see them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::route::Route;
use crate::ids::{ModelName, RolloutId, VersionName, Weight};
use crate::store::{AuditRow, StableRoute, TransitionRow};

/// A model's route with the roles of its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteView {
    /// The model.
    pub model: ModelName,
    /// Counts up with every change.
    pub revision: u64,
    /// Shares in percent.
    pub weights: BTreeMap<VersionName, Weight>,
    /// The version that the others are compared with.
    pub stable: VersionName,
    /// All others that have traffic.
    pub canary: Vec<VersionName>,
    /// Where a rollback would go.
    pub rollback_target: Option<StableRoute>,
}

impl RouteView {
    pub(super) fn of(model: &ModelName, route: &Route) -> Self {
        let stable = route.stable().clone();
        Self {
            model: model.clone(),
            revision: route.revision(),
            weights: route.weights().clone(),
            canary: route.weights().keys().filter(|v| **v != stable).cloned().collect(),
            stable,
            rollback_target: route.rollback_target().cloned(),
        }
    }
}

/// What the audit log tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditAction {
    /// A model got the route of the configuration.
    FirstRoute,
    /// A model got other weights.
    SetWeights,
    /// A model went back to its last stable route.
    Rollback,
    /// A flag was set.
    Flag,
    /// A rollout went on or ended.
    Rollout,
    /// An experiment began or ended.
    Experiment,
    /// The configuration is another, or what it wants was acted on.
    Configure,
    /// A version was loaded.
    Load,
    /// A version could not be loaded.
    LoadFailed,
    /// A version was withdrawn from new requests, and is being drained.
    Unload,
    /// Requests of a version that was being drained were cut off at the deadline.
    CutOff,
    /// An operator has read an answer, and what a user had asked.
    ReadAnswer,
}

impl AuditAction {
    /// As it is written down.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstRoute => "first_route",
            Self::SetWeights => "set_weights",
            Self::Rollback => "rollback",
            Self::Flag => "flag",
            Self::Rollout => "rollout",
            Self::Experiment => "experiment",
            Self::Configure => "configure",
            Self::Load => "load",
            Self::LoadFailed => "load_failed",
            Self::Unload => "unload",
            Self::CutOff => "cut_off",
            Self::ReadAnswer => "read_answer",
        }
    }
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Counts up.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What: an [`AuditAction`], or the word of another release of this program.
    pub action: String,
    /// The model.
    pub model: String,
    /// What exactly.
    pub detail: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        let AuditRow { id, line } = row;
        Self {
            id,
            at: line.at,
            actor: line.actor,
            action: line.action,
            model: line.model,
            detail: line.detail,
            reason: line.reason,
        }
    }
}

/// A line of a rollout's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutLine {
    /// The rollout.
    pub rollout: RolloutId,
    /// When.
    pub at: Timestamp,
    /// Where it was, such as `step 2`; nowhere at its beginning.
    pub from: Option<String>,
    /// Where it went.
    pub to: String,
    /// The canary's weight from then on.
    pub weight: Weight,
    /// Who.
    pub actor: String,
    /// Why, in one sentence.
    pub reason: String,
}

impl From<TransitionRow> for RolloutLine {
    fn from(row: TransitionRow) -> Self {
        let TransitionRow { rollout, at, from, to, to_weight, actor, reason, .. } = row;
        Self { rollout, at, from, to, weight: to_weight, actor, reason }
    }
}
