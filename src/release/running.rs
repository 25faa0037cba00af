//! The rollouts that run, as readers see them. Only the owner of changes publishes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::declared::Declared;
use super::error::ReleaseError;
use super::rollout::Rollout;
use crate::ids::ModelName;
use crate::store::Store;

/// The shared, swappable table of running rollouts, one a model at most. Reading it takes no lock.
#[derive(Debug, Clone, Default)]
pub struct Running(Arc<ArcSwap<BTreeMap<ModelName, Arc<Rollout>>>>);

impl Running {
    /// Those that the store has, of models that are still declared.
    pub(super) async fn restored(
        store: &Store,
        declared: &BTreeMap<ModelName, Declared>,
    ) -> Result<Self, ReleaseError> {
        let running = Self::default();
        running.restore(store, declared).await?;
        Ok(running)
    }

    /// Shows those that the store has, and no others.
    pub(super) async fn restore(
        &self,
        store: &Store,
        declared: &BTreeMap<ModelName, Declared>,
    ) -> Result<(), ReleaseError> {
        let mut running = BTreeMap::new();
        for row in store.running_rollouts().await? {
            if declared.contains_key(&row.model) {
                let rollout = Rollout::try_from(row)?;
                running.insert(rollout.model.clone(), Arc::new(rollout));
            }
        }
        self.0.store(Arc::new(running));
        Ok(())
    }

    /// A model's, if one runs.
    pub fn get(&self, model: &ModelName) -> Option<Arc<Rollout>> {
        self.0.load().get(model).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Rollout>> {
        self.0.load().values().cloned().collect()
    }

    /// Shows a rollout as it is now; one that has ended no longer runs.
    pub(super) fn publish(&self, rollout: &Rollout) {
        let mut next = BTreeMap::clone(&self.0.load());
        if rollout.phase().is_terminal() {
            next.remove(&rollout.model);
        } else {
            next.insert(rollout.model.clone(), Arc::new(rollout.clone()));
        }
        self.0.store(Arc::new(next));
    }
}
