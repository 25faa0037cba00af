//! The owner of routes and rollouts: takes one command after another.
//!
//! A change is written first, then published to readers, then answered.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use jiff::Timestamp;

use super::changes::{Change, Command, Kind, Readiness, Withdrawn};
use super::declared::{Declarations, Declared};
use super::error::ReleaseError;
use super::experiment::Experiments;
use super::route::{Route, whole};
use super::running::Running;
use super::table::Routes;
use super::view::{AuditAction, RouteView};
use crate::clock::Clock;
use crate::ids::{ModelName, VersionName, VersionRef};
use crate::store::{NewAudit, RouteRow, Store};

pub(super) struct Owner {
    pub(super) store: Store,
    pub(super) routes: Routes,
    pub(super) rollouts: Running,
    pub(super) experiments: Experiments,
    pub(super) declared: Declarations,
    pub(super) readiness: Arc<dyn Readiness>,
    pub(super) clock: Arc<dyn Clock>,
    /// How many changes there had been when what is shown to readers was read; see `shared`.
    pub(super) known: AtomicI64,
}

impl Owner {
    pub(super) async fn obey(&self, command: Command) {
        // The caller may have gone; what was done stands and is in the log.
        match command {
            Command::Change { model, kind, change, reply } => {
                let _ = reply.send(self.apply(&model, kind, &change).await);
            }
            Command::Flag { model, of, wanted, by, reply } => {
                let _ = reply.send(self.set_flag(&model, of, wanted, &by).await);
            }
            Command::Begin { new, by, reply } => {
                let _ = reply.send(self.begin(new, &by).await);
            }
            Command::Rollout { model, id, event, reply } => {
                let _ = reply.send(self.move_rollout(&model, id, event).await);
            }
            Command::Follow { begin, by, reply } => {
                let _ = reply.send(self.follow(begin, &by).await);
            }
            Command::Redeclare { new, reply } => {
                let _ = reply.send(self.redeclare(new).await);
            }
            Command::BeginExperiment { begin, reply } => {
                let _ = reply.send(self.begin_experiment(begin).await);
            }
            Command::Experiment { model, id, event, reply } => {
                let _ = reply.send(self.move_experiment(&model, id, event).await);
            }
            Command::Withdraw { version, withdraw, change, reply } => {
                let _ = reply.send(self.withdraw(version, withdraw, &change).await);
            }
        }
    }

    async fn withdraw(
        &self,
        version: VersionRef,
        withdraw: Box<dyn FnOnce() -> Withdrawn + Send>,
        change: &Change,
    ) -> Result<(), ReleaseError> {
        let table = self.routes.snapshot();
        let weight = table.get(&version.model).and_then(|route| route.weights().get(&version.version));
        if let Some(weight) = weight.copied() {
            return Err(ReleaseError::HasWeight { version, weight });
        }
        let detail = match withdraw() {
            Withdrawn::No => None,
            Withdrawn::ToCold => Some(version.version.to_string()),
            Withdrawn::ToWarm => Some(format!("{}, to warm", version.version)),
        };
        if let Some(detail) = detail {
            let line = audit_line(&version.model, AuditAction::Unload, detail, change);
            self.store.record(&line).await?;
        }
        Ok(())
    }

    pub(super) async fn apply(
        &self,
        model: &ModelName,
        kind: Kind,
        change: &Change,
    ) -> Result<RouteView, ReleaseError> {
        let table = self.routes.snapshot();
        let unknown = || ReleaseError::UnknownModel { model: model.clone() };
        let current = table.get(model).ok_or_else(unknown)?;
        let declared = self.declared.get(model).ok_or_else(unknown)?;
        let (action, next) = match kind {
            Kind::SetWeights(weights) => {
                let named =
                    |version: &VersionName| VersionRef { model: model.clone(), version: version.clone() };
                if let Some(version) = weights.keys().find(|v| !declared.versions.contains(v)) {
                    return Err(ReleaseError::UnknownVersion { version: named(version) });
                }
                (AuditAction::SetWeights, current.reweighted(whole(weights)?)?)
            }
            Kind::Rollback { to } => {
                // of a shared store, points may be of versions that are not declared here, or no more
                let mut points = current.rollback_points.iter().rev().map(|point| &point.version);
                let last = || points.find(|version| declared.versions.contains(*version));
                let next = to.as_ref().or_else(last).and_then(|target| current.rolled_back_to(target));
                let nothing = || ReleaseError::NothingToRollBackTo { model: model.clone() };
                (AuditAction::Rollback, next.ok_or_else(nothing)?)
            }
        };
        self.can_take(model, current, &next)?;
        if let Some(rollout) = self.rollouts.get(model) {
            // The rollout no longer owns the route: its end is written together with the route.
            self.taken_over(&rollout, &next, action, change).await?;
        } else if let Some(experiment) = self.experiments.get(model) {
            self.experiment_taken_over(&experiment, &next, action, change).await?;
        } else {
            append(&self.store, model, &next, action, change).await?;
        }
        let view = RouteView::of(model, &next);
        self.routes.publish(table.with(model, next));
        Ok(view)
    }

    /// Refuses a route that gives more traffic to a version that cannot answer. One that keeps or loses traffic needs no
    /// proof: only new trust does.
    pub(super) fn can_take(&self, model: &ModelName, now: &Route, next: &Route) -> Result<(), ReleaseError> {
        let grows = |version: &&VersionName| next.weights().get(*version) > now.weights().get(*version);
        let named = |version: &VersionName| VersionRef { model: model.clone(), version: version.clone() };
        let mut growing = next.weights().keys().filter(grows).map(named);
        match growing.find(|version| !self.readiness.is_ready(version)) {
            Some(version) => Err(ReleaseError::NotHot { version }),
            None => Ok(()),
        }
    }
}

pub(super) fn restored(row: RouteRow, declared: &Declared) -> Result<Route, ReleaseError> {
    // a wish takes its traffic to what is declared; until then another version stands in
    let is_followed = declared.wanted.is_some();
    if let Some(version) = row.weights.keys().find(|v| !is_followed && !declared.versions.contains(v)) {
        return Err(ReleaseError::Undeclared { model: row.model, version: version.clone() });
    }
    // a version that has left the configuration can no longer be rolled back to
    let mut points = row.rollback_points;
    points.retain(|point| declared.versions.contains(&point.version));
    let damaged = ReleaseError::Damaged { model: row.model, revision: row.revision };
    Route::restored(row.revision, row.weights, &row.bucket_runs, points).ok_or(damaged)
}

pub(super) async fn first_route(
    store: &Store,
    model: &ModelName,
    declared: &Declared,
) -> Result<Route, ReleaseError> {
    let route = Route::first(declared.first_route.clone())?;
    let change =
        Change { actor: "switchback".to_owned(), reason: "first route of the configuration".to_owned() };
    append(store, model, &route, AuditAction::FirstRoute, &change).await?;
    Ok(route)
}

pub(super) async fn append(
    store: &Store,
    model: &ModelName,
    route: &Route,
    action: AuditAction,
    change: &Change,
) -> Result<(), ReleaseError> {
    let line = audit_line(model, action, shares(route), change);
    Ok(store.append_route(&route_row(model, route, line.at, change), &line).await?)
}

fn shares(route: &Route) -> String {
    let shares: Vec<String> = route.weights().iter().map(|(v, w)| format!("{v}={w}")).collect();
    shares.join(" ")
}

pub(super) fn route_row(model: &ModelName, route: &Route, at: Timestamp, change: &Change) -> RouteRow {
    RouteRow {
        model: model.clone(),
        revision: route.revision(),
        weights: route.weights().clone(),
        bucket_runs: route.bucket_runs(),
        rollback_points: route.rollback_points.clone(),
        at,
        actor: change.actor.clone(),
        reason: change.reason.clone(),
    }
}

pub(super) fn audit_line(
    model: &ModelName,
    action: AuditAction,
    detail: String,
    change: &Change,
) -> NewAudit {
    NewAudit {
        at: Timestamp::now(),
        actor: change.actor.clone(),
        action: action.as_str().to_owned(),
        model: model.to_string(),
        detail: Some(detail),
        reason: Some(change.reason.clone()).filter(|r| !r.is_empty()),
    }
}
