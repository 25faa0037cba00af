//! Rollouts as operators ask for them.

use std::sync::Arc;

use super::{AdminError, Gateway};
use crate::config::{Policy, ReadyMade};
use crate::ids::{ModelName, VersionName, VersionRef};
use crate::release::rollout::{Basis, Command, Event, Rollout};
use crate::release::{Begin, Change, OnConflict, RolloutLine};

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
        let settings = self.inner().models.get(model);
        let settings = settings.ok_or_else(|| AdminError::UnknownModel(model.clone()))?;
        let basis = if settings.checks.is_empty() { Basis::Nothing } else { Basis::Checks };
        let policy = match policy {
            Some(name) => Policy::named(name, &self.inner().policies)?,
            None => settings.policy.clone().unwrap_or_else(|| self.usual_policy(model, &canary)),
        };
        let new = Begin { model: model.clone(), canary, policy, basis, conflict };
        Ok(self.inner().releases.begin_rollout(new, change).await?)
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
