//! Rollouts to the store and back.

use serde::{Deserialize, Serialize};

use super::event::Transition;
use super::state::{Basis, Judged, Rollout, State};
use crate::ids::Weight;
use crate::release::AuditAction;
use crate::store::{NewAudit, NewTransition, RolloutNotice, RolloutRow, RouteRow, StoreError};

/// The `state` column: all that changes, and what the canary is judged on.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    state: State,
    weight: Weight,
    basis: Basis,
    judged: Option<Judged>,
}

impl Transition {
    /// What is to be written, with the route's new revision where [`Transition::action`] asks for one.
    pub fn to_store(&self, route: Option<RouteRow>) -> NewTransition {
        let rollout = &self.rollout;
        let from = self.from.as_ref().map(State::to_string);
        let moved = match &from {
            Some(from) => format!("{from} -> {}", rollout.state),
            None => rollout.state.to_string(),
        };
        let audit = NewAudit {
            at: self.at,
            actor: self.actor.clone(),
            action: AuditAction::Rollout.as_str().to_owned(),
            model: rollout.model.to_string(),
            detail: Some(format!("rollout {}: {moved}, {}={}", rollout.id, rollout.canary, rollout.weight)),
            reason: Some(self.reason.clone()),
        };
        NewTransition {
            notice: self.notice(from.as_deref(), route.as_ref()),
            rollout: self.row(),
            from,
            to: rollout.state.to_string(),
            from_weight: self.from_weight,
            to_weight: rollout.weight,
            route,
            audit,
        }
    }

    /// What webhooks tell of it; nothing where the rollout only goes on in its state after a restart.
    fn notice(&self, from: Option<&str>, route: Option<&RouteRow>) -> Option<RolloutNotice> {
        let rollout = &self.rollout;
        let to = rollout.state.to_string();
        let owned = || rollout.weights().into_iter().filter(|(_, weight)| *weight > Weight::ZERO).collect();
        (from != Some(&*to)).then(|| RolloutNotice {
            event: rollout.phase().as_str().to_owned(),
            at: self.at,
            model: rollout.model.clone(),
            rollout: rollout.id,
            stable: rollout.stable.clone(),
            canary: rollout.canary.clone(),
            from: from.map(str::to_owned),
            to,
            weights: route.map_or_else(owned, |route| route.weights.clone()),
            waits_for: rollout.waits_for().as_str().to_owned(),
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            verdict: rollout.judged.as_ref().map(|judged| judged.verdict.to_string()),
            finding: rollout.judged.as_ref().map(|judged| judged.finding.clone()),
        })
    }

    fn row(&self) -> RolloutRow {
        let rollout = &self.rollout;
        RolloutRow {
            id: rollout.id,
            model: rollout.model.clone(),
            canary: rollout.canary.clone(),
            stable: rollout.stable.clone(),
            policy: json(&rollout.policy),
            state: rollout.state_to_store(),
            created_at: rollout.started_at,
            updated_at: self.at,
            ended_at: rollout.phase().is_terminal().then_some(self.at),
            actor: self.actor.clone(),
            reason: self.reason.clone(),
        }
    }
}

impl Rollout {
    /// All that changes, as the store has it.
    pub(in crate::release) fn state_to_store(&self) -> String {
        json(&Stored {
            state: self.state.clone(),
            weight: self.weight,
            basis: self.basis,
            judged: self.judged.clone(),
        })
    }
}

impl TryFrom<RolloutRow> for Rollout {
    type Error = StoreError;

    fn try_from(row: RolloutRow) -> Result<Self, StoreError> {
        let damaged = |column, found: &str, e: serde_json::Error| StoreError::Row {
            column,
            found: found.to_owned(),
            why: e.to_string(),
        };
        let policy = serde_json::from_str(&row.policy).map_err(|e| damaged("policy", &row.policy, e))?;
        let Stored { state, weight, basis, judged } =
            serde_json::from_str(&row.state).map_err(|e| damaged("state", &row.state, e))?;
        Ok(Self {
            id: row.id,
            model: row.model,
            stable: row.stable,
            canary: row.canary,
            policy,
            basis,
            started_at: row.created_at,
            state,
            weight,
            judged,
        })
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers always serialise")
}
