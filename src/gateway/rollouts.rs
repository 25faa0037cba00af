//! Rollouts as operators ask for them.

use std::sync::Arc;

use super::{AdminError, Gateway};
use crate::config::Policy;
use crate::ids::{ModelName, VersionName};
use crate::release::rollout::{Basis, Command, Event, Rollout};
use crate::release::{Begin, Change, OnConflict, RolloutLine};

impl Gateway {
    /// Begins a rollout of a version by a policy of this name; its first step is taken when this returns.
    pub async fn begin_rollout(
        &self,
        model: &ModelName,
        canary: VersionName,
        policy: &str,
        conflict: OnConflict,
        change: Change,
    ) -> Result<Rollout, AdminError> {
        let settings = self.inner().models.get(model);
        let settings = settings.ok_or_else(|| AdminError::UnknownModel(model.clone()))?;
        let basis = if settings.checks.is_empty() { Basis::Nothing } else { Basis::Checks };
        let policy = Policy::named(policy, &self.inner().policies)?;
        let new = Begin { model: model.clone(), canary, policy, basis, conflict };
        Ok(self.inner().releases.begin_rollout(new, change).await?)
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
