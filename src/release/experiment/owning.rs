//! What the owner of changes does for experiments, and how it is asked.
//!
//! The beginning and the end of one are in the store, each with its route, before anybody sees either.

use std::sync::Arc;

use jiff::Timestamp;

use super::rows::restored;
use super::running::Experiments;
use super::state::{Experiment, ExperimentEvent, NewExperiment};
use crate::ids::{ExperimentId, ModelName, VersionRef};
use crate::release::analysis::Difference;
use crate::release::changes::Command;
use crate::release::owner::{Owner, route_row};
use crate::release::route::{Route, whole};
use crate::release::{AuditAction, Change, ReleaseError, Releases};

/// An experiment that is asked for.
pub(in crate::release) struct BeginExperiment {
    pub(in crate::release) new: NewExperiment,
    pub(in crate::release) by: Change,
}

/// An experiment and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ExperimentReport {
    /// The experiment.
    pub experiment: Arc<Experiment>,
    /// What is known, or was at its end.
    pub known: Arc<[Difference]>,
}

impl Releases {
    /// Begins an experiment: written down, and its route in force, when this returns.
    pub async fn begin_experiment(&self, new: NewExperiment, by: Change) -> Result<Experiment, ReleaseError> {
        let begin = BeginExperiment { new, by };
        self.ask(|reply| Command::BeginExperiment { begin, reply }).await
    }

    /// Tells a running experiment what has happened; the experiment after it. It is refused if another experiment of the
    /// model runs by now.
    pub async fn move_experiment(
        &self,
        model: ModelName,
        id: ExperimentId,
        event: ExperimentEvent,
    ) -> Result<Experiment, ReleaseError> {
        self.ask(|reply| Command::Experiment { model, id, event, reply }).await
    }

    /// The experiment of a model that runs, else the last one.
    pub async fn experiment(&self, model: &ModelName) -> Result<Option<ExperimentReport>, ReleaseError> {
        if let Some(experiment) = self.experiments().get(model) {
            let known = self.experiments().known(experiment.id);
            return Ok(Some(ExperimentReport { experiment, known }));
        }
        Ok(self.past_experiments(model, 1).await?.into_iter().next())
    }

    /// The newest experiments of a model, the newest first.
    pub async fn past_experiments(
        &self,
        model: &ModelName,
        limit: u32,
    ) -> Result<Vec<ExperimentReport>, ReleaseError> {
        let report = |row| -> Result<ExperimentReport, ReleaseError> {
            let (experiment, known) = restored(row)?;
            let known = if experiment.ended.is_some() {
                known.into()
            } else {
                self.experiments().known(experiment.id)
            };
            Ok(ExperimentReport { experiment: Arc::new(experiment), known })
        };
        self.store().experiments(model, limit).await?.into_iter().map(report).collect()
    }
}

impl Owner {
    pub(in crate::release) async fn begin_experiment(
        &self,
        BeginExperiment { new, by }: BeginExperiment,
    ) -> Result<Experiment, ReleaseError> {
        let model = new.model.clone();
        let declared = self.declared.get(&model);
        let declared = declared.ok_or_else(|| ReleaseError::UnknownModel { model: model.clone() })?;
        for version in [&new.control, &new.treatment] {
            let version = VersionRef { model: model.clone(), version: version.clone() };
            if !declared.versions.contains(&version.version) {
                return Err(ReleaseError::UnknownVersion { version });
            }
            if !self.readiness.is_ready(&version) {
                return Err(ReleaseError::NotHot { version });
            }
        }
        if new.control == new.treatment {
            return Err(ReleaseError::SameArms { version: new.control });
        }
        if let Some(running) = self.rollouts.get(&model) {
            return Err(ReleaseError::RolloutRuns { model, id: running.id });
        }
        if let Some(running) = self.experiments.get(&model) {
            return Err(ReleaseError::ExperimentRuns { model, id: running.id });
        }
        let stable = self.stable_alone(&model)?;
        if stable != new.control {
            return Err(ReleaseError::NotControl { control: new.control, stable });
        }
        let id = self.store.next_experiment_id().await?;
        let experiment = Experiment::begin(id, new, by.clone(), self.clock.now());
        self.write_experiment(&experiment, experiment.started_at, &by).await?;
        Ok(experiment)
    }

    /// Tells the running experiment of a model what has happened.
    pub(in crate::release) async fn move_experiment(
        &self,
        model: &ModelName,
        id: ExperimentId,
        event: ExperimentEvent,
    ) -> Result<Experiment, ReleaseError> {
        let running = self.experiments.get(model).filter(|running| running.id == id);
        let running = running.ok_or_else(|| ReleaseError::NoExperiment { model: model.clone() })?;
        let Some(over) = running.after(event, self.clock.now()) else {
            return Ok(Experiment::clone(&running));
        };
        if let Some(ended) = &over.ended {
            let by = Change { actor: ended.actor.clone(), reason: ended.reason.clone() };
            self.write_experiment(&over, ended.at, &by).await?;
        }
        Ok(over)
    }

    /// Ends an experiment because its route was changed by hand; the caller publishes the route.
    pub(in crate::release) async fn experiment_taken_over(
        &self,
        experiment: &Experiment,
        route: &Route,
        action: AuditAction,
        by: &Change,
    ) -> Result<(), ReleaseError> {
        let now = self.clock.now();
        let model = &experiment.model;
        let over = experiment.after(ExperimentEvent::RouteTaken(by.clone()), now);
        let over = over.ok_or_else(|| ReleaseError::NoExperiment { model: model.clone() })?;
        let row = route_row(model, route, now, by);
        let mut change = over.to_store(Some(row), &self.experiments.known(over.id));
        // Operators look for their own words in the log.
        action.as_str().clone_into(&mut change.audit.action);
        self.store.append_experiment(&change).await?;
        self.experiments.publish(&over);
        Ok(())
    }

    /// Writes the beginning or the end of an experiment with the route that it asks for, then shows both.
    async fn write_experiment(
        &self,
        experiment: &Experiment,
        at: Timestamp,
        by: &Change,
    ) -> Result<(), ReleaseError> {
        let model = &experiment.model;
        let table = self.routes.snapshot();
        let unknown = || ReleaseError::UnknownModel { model: model.clone() };
        let route = table.get(model).ok_or_else(unknown)?;
        let weights = experiment.weights().map(whole).transpose()?;
        let next = weights.map(|weights| route.reweighted(weights)).transpose()?;
        let row = next.as_ref().map(|next| route_row(model, next, at, by));
        let known = self.experiments.known(experiment.id);
        self.store.append_experiment(&experiment.to_store(row, &known)).await?;
        if let Some(next) = next {
            self.routes.publish(table.with(model, next));
        }
        let ended = experiment.ended.as_ref().map(|ended| ended.reason.as_str());
        tracing::info!(%model, experiment = %experiment.id, ended, "experiment moved");
        self.experiments.publish(experiment);
        Ok(())
    }
}

impl Releases {
    /// The experiments that run.
    pub(in crate::release) fn experiments(&self) -> &Experiments {
        &self.experiments
    }

    /// The number of a model's experiment that runs, if one does.
    pub fn running_experiment(&self, model: &ModelName) -> Option<ExperimentId> {
        self.experiments.get(model).map(|experiment| experiment.id)
    }
}
