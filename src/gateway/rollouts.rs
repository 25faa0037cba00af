//! Rollouts as operators ask for them.

use std::sync::Arc;

use super::{AdminError, Gateway};
use crate::config::{Phase, Policy, ReadyMade, SuiteGate};
use crate::ids::{ModelName, VersionName, VersionRef};
use crate::release::rollout::{Basis, Command, Event, Rollout};
use crate::release::{Begin, Change, Entry, OnConflict, RolloutLine};

impl Gateway {
    /// Begins a rollout of a version by a policy of this name, else by the model's own; its first step is taken when
    /// this returns.
    pub async fn begin_rollout(
        &self,
        model: &ModelName,
        canary: VersionName,
        policy: Option<&str>,
        conflict: OnConflict,
        change: Change,
    ) -> Result<Rollout, AdminError> {
        let new = self.rollout_of(model, canary, policy, conflict)?;
        let begun = self.inner().releases.begin_rollout(new, change).await?;
        self.inner().suite_wanted.notify_one();
        Ok(begun)
    }

    /// The rollout of a version as the configuration has it, by a policy of this name, else by the model's own.
    pub(super) fn rollout_of(
        &self,
        model: &ModelName,
        canary: VersionName,
        policy: Option<&str>,
        conflict: OnConflict,
    ) -> Result<Begin, AdminError> {
        let settings = self.inner().settings.load();
        let policies = &settings.config.policies;
        let settings = settings.config.models.get(model);
        let settings = settings.ok_or_else(|| AdminError::UnknownModel(model.clone()))?;
        let basis = if settings.checks.is_empty() { Basis::Nothing } else { Basis::Checks };
        let policy = match policy {
            Some(name) => Policy::named(name, policies)?,
            None => settings.policy.clone().unwrap_or_else(|| self.usual_policy(model, &canary)),
        };
        let entry = if settings.suite.is_some() { Entry::Suite } else { Entry::FirstStep };
        Ok(Begin { model: model.clone(), canary, policy, basis, conflict, entry })
    }

    /// The suite that versions of a model must pass before a rollout gives them traffic.
    pub fn suite_of(&self, model: &ModelName) -> Option<SuiteGate> {
        self.configured(model, |config| config.suite.clone())?
    }

    /// The rollouts that wait for the end of a suite that this replica is to run.
    pub fn rollouts_in_suite(&self) -> Vec<Arc<Rollout>> {
        if !self.leads() {
            return Vec::new();
        }
        let running = self.inner().releases.rollouts().all();
        running.into_iter().filter(|rollout| rollout.phase() == Phase::Suite).collect()
    }

    /// Returns when a rollout may have begun to wait for a suite since this returned last.
    pub async fn suite_wanted(&self) {
        self.inner().suite_wanted.notified().await;
    }

    /// Tells a rollout how its suite has ended.
    pub async fn suite_ended(
        &self,
        rollout: &Rollout,
        outcome: Result<(), String>,
    ) -> Result<(), AdminError> {
        let event = match outcome {
            Ok(()) => Event::SuitePassed,
            Err(why) => Event::SuiteFailed { why },
        };
        self.inner().releases.move_rollout(rollout.model.clone(), rollout.id, event).await?;
        Ok(())
    }

    /// How a version is rolled out where nobody says how: in an hour, or in twenty minutes where it is the same version
    /// as stable, by its digest, and only what serves it is new.
    fn usual_policy(&self, model: &ModelName, canary: &VersionName) -> Policy {
        let digest = |version: &VersionName| {
            let version = VersionRef { model: model.clone(), version: version.clone() };
            self.inner().residency.hot(&version).map(|backend| backend.prepared.version_digest())
        };
        let stable = self.inner().routes.snapshot().get(model).map(|route| route.stable().clone());
        let same = stable.is_some_and(|stable| stable != *canary && digest(&stable) == digest(canary));
        let usual = if same { ReadyMade::CodeOnly } else { ReadyMade::CustomerFacing };
        usual.policy()
    }

    /// The rollout of a model that runs, else the last one.
    pub async fn rollout(&self, model: &ModelName) -> Result<Option<Arc<Rollout>>, AdminError> {
        Ok(self.inner().releases.rollout(model).await?)
    }

    /// Does to the rollout that runs what an operator wants.
    pub async fn command_rollout(
        &self,
        model: &ModelName,
        command: Command,
        by: Change,
    ) -> Result<Rollout, AdminError> {
        let running = self.inner().releases.rollouts().get(model);
        let running = running.ok_or_else(|| AdminError::NoRollout(model.clone()))?;
        let event = Event::Operator { command, by };
        Ok(self.inner().releases.move_rollout(model.clone(), running.id, event).await?)
    }

    /// What happened in the rollouts of a model, the newest first.
    pub async fn rollout_history(
        &self,
        model: &ModelName,
        limit: u32,
    ) -> Result<Vec<RolloutLine>, AdminError> {
        Ok(self.inner().releases.rollout_history(model, limit).await?)
    }
}
