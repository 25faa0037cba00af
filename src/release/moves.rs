//! What the owner does for rollouts: begins them, moves them, and lets go of them when somebody takes the route over.
//!
//! A transition is in the store, with the route that it asks for, before anybody sees either. One that would give more
//! traffic to a version that is not hot is refused, and weights stay as they are.

use super::changes::{Begin, Change, Entry, OnConflict};
use super::error::ReleaseError;
use super::owner::{Owner, route_row};
use super::rollout::{Event, NewRollout, Next, Rollout, RolloutId, Transition};
use super::route::{Route, whole};
use super::view::AuditAction;
use crate::ids::{ModelName, VersionRef, Weight};

impl Owner {
    /// Begins a rollout and takes its first step.
    pub(super) async fn begin(&self, new: Begin, by: &Change) -> Result<Rollout, ReleaseError> {
        let Begin { model, canary, policy, basis, conflict, entry } = new;
        let named = VersionRef { model: model.clone(), version: canary.clone() };
        let declared = self.declared.get(&model);
        let declared = declared.ok_or_else(|| ReleaseError::UnknownModel { model: model.clone() })?;
        if !declared.versions.contains(&canary) {
            return Err(ReleaseError::UnknownVersion { version: named });
        }
        if !self.readiness.is_ready(&named) {
            return Err(ReleaseError::NotHot { version: named });
        }
        if let Some(running) = self.experiments.get(&model) {
            return Err(ReleaseError::ExperimentRuns { model, id: running.id });
        }
        let now = self.clock.now();
        let id = self.store.next_rollout_id().await?;
        let mut transitions = Vec::new();
        let stable = match self.rollouts.get(&model) {
            None => self.stable_alone(&model)?,
            Some(running) if conflict == OnConflict::Refuse => {
                return Err(ReleaseError::RolloutRuns { model, id: running.id });
            }
            Some(running) => {
                let event = Event::Superseded { by: id, actor: by.actor.clone() };
                if let Next::Moved(transition) = running.apply(event, now)? {
                    transitions.push(transition);
                }
                running.stable.clone()
            }
        };
        let new = NewRollout { id, model: model.clone(), stable, canary, policy, basis };
        let begun = Rollout::begin(new, by, now).map_err(ReleaseError::SameVersion)?;
        let rollout = begun.rollout.clone();
        transitions.push(begun);
        match entry {
            Entry::FirstStep => {
                self.write(&model, transitions).await?;
                self.advance(&rollout, Event::NoSuite).await
            }
            // in one write: nobody may find it before its suite, and take it for one that has none
            Entry::Suite => {
                let Next::Moved(waits) = rollout.apply(Event::SuiteStarted, now)? else {
                    return Ok(rollout);
                };
                let rollout = waits.rollout.clone();
                transitions.push(waits);
                self.write(&model, transitions).await?;
                Ok(rollout)
            }
        }
    }

    /// Tells the running rollout of a model what has happened.
    pub(super) async fn move_rollout(
        &self,
        model: &ModelName,
        id: RolloutId,
        event: Event,
    ) -> Result<Rollout, ReleaseError> {
        let running = self.rollouts.get(model).filter(|rollout| rollout.id == id);
        let running = running.ok_or_else(|| ReleaseError::NoSuchRollout { model: model.clone(), id })?;
        self.advance(&running, event).await
    }

    async fn advance(&self, rollout: &Rollout, event: Event) -> Result<Rollout, ReleaseError> {
        match rollout.apply(event, self.clock.now())? {
            Next::Same(next) => {
                // all replicas tell what the analysis says
                if self.store.is_shared() && next != *rollout {
                    self.store.note_rollout(next.id, &next.state_to_store()).await?;
                }
                self.rollouts.publish(&next);
                Ok(next)
            }
            Next::Moved(transition) => {
                let moved = transition.rollout.clone();
                self.write(&moved.model, vec![transition]).await?;
                Ok(moved)
            }
        }
    }

    /// Ends a rollout because its route was changed by hand; the caller publishes the route.
    pub(super) async fn taken_over(
        &self,
        rollout: &Rollout,
        route: &Route,
        action: AuditAction,
        by: &Change,
    ) -> Result<(), ReleaseError> {
        let canary = route.weights().get(&rollout.canary).copied().unwrap_or(Weight::ZERO);
        let now = self.clock.now();
        let model = &rollout.model;
        let Next::Moved(transition) = rollout.apply(Event::RolledBack { canary, by: by.clone() }, now)?
        else {
            return Err(ReleaseError::NoSuchRollout { model: model.clone(), id: rollout.id });
        };
        let row = route_row(model, route, now, by);
        let mut written = transition.to_store(Some(row));
        // Operators look for their own words in the log.
        action.as_str().clone_into(&mut written.audit.action);
        self.store.append_transitions(&[written]).await?;
        self.rollouts.publish(&transition.rollout);
        Ok(())
    }

    /// Writes transitions of one model, all or none, with the routes that they ask for; then shows them.
    async fn write(&self, model: &ModelName, transitions: Vec<Transition>) -> Result<(), ReleaseError> {
        let table = self.routes.snapshot();
        let unknown = || ReleaseError::UnknownModel { model: model.clone() };
        let mut route = table.get(model).ok_or_else(unknown)?.clone();
        let mut changed = false;
        let mut rows = Vec::with_capacity(transitions.len());
        for transition in &transitions {
            let mut row = None;
            if transition.action.is_some() {
                let weights = whole(transition.rollout.weights())?;
                if weights != *route.weights() {
                    route = route.reweighted(weights)?;
                    let by = Change { actor: transition.actor.clone(), reason: transition.reason.clone() };
                    row = Some(route_row(model, &route, transition.at, &by));
                    changed = true;
                }
            }
            rows.push(transition.to_store(row));
        }
        // Of several transitions, readers see what the last one leaves.
        self.can_take(model, table.get(model).ok_or_else(unknown)?, &route)?;
        self.store.append_transitions(&rows).await?;
        if changed {
            self.routes.publish(table.with(model, route));
        }
        for transition in &transitions {
            let Transition { rollout, reason, .. } = transition;
            tracing::info!(model = %model, rollout = %rollout.id, state = %rollout.state, %reason, "rollout moved");
            self.rollouts.publish(rollout);
        }
        Ok(())
    }

    /// The version that has all traffic of a model; a rollout needs one to compare with and to go back to.
    pub(super) fn stable_alone(&self, model: &ModelName) -> Result<crate::ids::VersionName, ReleaseError> {
        let table = self.routes.snapshot();
        let route = table.get(model);
        let route = route.ok_or_else(|| ReleaseError::UnknownModel { model: model.clone() })?;
        route.stable_alone().cloned().ok_or_else(|| ReleaseError::RouteIsSplit { model: model.clone() })
    }
}
