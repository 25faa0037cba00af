//! The experiments that run, as readers see them, and what is known of each.
//!
//! Only the owner of changes publishes experiments, only the watcher publishes what is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::rows::restored;
use super::state::Experiment;
use crate::ids::{ExperimentId, ModelName};
use crate::release::ReleaseError;
use crate::release::analysis::Difference;
use crate::release::declared::Declared;
use crate::store::Store;

/// The shared, swappable tables. Reading them takes no lock.
#[derive(Debug, Clone, Default)]
pub(in crate::release) struct Experiments {
    running: Arc<ArcSwap<BTreeMap<ModelName, Arc<Experiment>>>>,
    known: Arc<ArcSwap<BTreeMap<ExperimentId, Arc<[Difference]>>>>,
}

impl Experiments {
    /// Those that the store has, of models that are still declared.
    pub(in crate::release) async fn restored(
        store: &Store,
        declared: &BTreeMap<ModelName, Declared>,
    ) -> Result<Self, ReleaseError> {
        let experiments = Self::default();
        experiments.restore(store, declared).await?;
        Ok(experiments)
    }

    /// Shows those that the store has, and no others. What is known of them stays.
    pub(in crate::release) async fn restore(
        &self,
        store: &Store,
        declared: &BTreeMap<ModelName, Declared>,
    ) -> Result<(), ReleaseError> {
        let mut running = BTreeMap::new();
        for row in store.running_experiments().await? {
            if declared.contains_key(&row.model) {
                let (experiment, _) = restored(row)?;
                running.insert(experiment.model.clone(), Arc::new(experiment));
            }
        }
        self.running.store(Arc::new(running));
        Ok(())
    }

    /// A model's, if one runs.
    pub(in crate::release) fn get(&self, model: &ModelName) -> Option<Arc<Experiment>> {
        self.running.load().get(model).cloned()
    }

    /// All of them.
    pub(in crate::release) fn all(&self) -> Vec<Arc<Experiment>> {
        self.running.load().values().cloned().collect()
    }

    /// What is known of one.
    pub(super) fn known(&self, id: ExperimentId) -> Arc<[Difference]> {
        self.known.load().get(&id).cloned().unwrap_or_default()
    }

    /// Shows an experiment as it is now; one that has ended no longer runs.
    pub(super) fn publish(&self, experiment: &Experiment) {
        let mut next = BTreeMap::clone(&self.running.load());
        if experiment.ended.is_some() {
            next.remove(&experiment.model);
        } else {
            next.insert(experiment.model.clone(), Arc::new(experiment.clone()));
        }
        self.running.store(Arc::new(next));
    }

    /// Shows what is known of all that run.
    pub(super) fn tell(&self, known: BTreeMap<ExperimentId, Arc<[Difference]>>) {
        self.known.store(Arc::new(known));
    }
}
