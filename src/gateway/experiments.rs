//! Experiments as operators ask for them.

use super::{AdminError, Gateway};
use crate::ids::ModelName;
use crate::release::Change;
use crate::release::experiment::{Experiment, ExperimentEvent, ExperimentReport, NewExperiment};

impl Gateway {
    /// Begins an experiment; its route is in force when this returns.
    pub async fn begin_experiment(&self, new: NewExperiment, by: Change) -> Result<Experiment, AdminError> {
        let is_checked = self.configured(&new.model, |config| !config.checks.is_empty());
        if !is_checked.ok_or_else(|| AdminError::UnknownModel(new.model.clone()))? {
            return Err(AdminError::NothingToCompare(new.model));
        }
        Ok(self.inner().releases.begin_experiment(new, by).await?)
    }

    /// The experiment of a model that runs, else the last one, with what is known of it.
    pub async fn experiment(&self, model: &ModelName) -> Result<Option<ExperimentReport>, AdminError> {
        Ok(self.inner().releases.experiment(model).await?)
    }

    /// Ends the experiment that runs: control gets all traffic.
    pub async fn stop_experiment(
        &self,
        model: &ModelName,
        by: Change,
    ) -> Result<Option<ExperimentReport>, AdminError> {
        let releases = &self.inner().releases;
        let none = || crate::release::ReleaseError::NoExperiment { model: model.clone() };
        let running = releases.running_experiment(model).ok_or_else(none)?;
        releases.move_experiment(model.clone(), running, ExperimentEvent::Stop(by)).await?;
        self.experiment(model).await
    }

    /// The newest experiments of a model, the newest first.
    pub async fn experiments(
        &self,
        model: &ModelName,
        limit: u32,
    ) -> Result<Vec<ExperimentReport>, AdminError> {
        Ok(self.inner().releases.past_experiments(model, limit).await?)
    }
}
