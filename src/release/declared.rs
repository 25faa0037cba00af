//! What the configuration declares, which a reload may swap.
//!
//! Only the owner of changes swaps it, in order with all changes of routes: so no version leaves that a route, a rollout or
//! an experiment needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::changes::{Change, Releases};
use super::error::ReleaseError;
use super::experiment::Experiments;
use super::flags;
use super::owner::{Owner, audit_line};
use super::running::Running;
use super::table::Routes;
use super::view::AuditAction;
use crate::config::Flag;
use crate::ids::{ModelName, VersionName, VersionRef, Weight};

/// A model as the configuration has it.
#[derive(Debug, Clone)]
pub struct Declared {
    /// All its versions.
    pub versions: BTreeSet<VersionName>,
    /// Its first route, used where the store has none yet.
    pub first_route: BTreeMap<VersionName, Weight>,
    /// Its flag (under `None`) and those of its versions, used until an operator sets others. What is not here lets
    /// everybody in.
    pub flags: BTreeMap<Option<VersionName>, Flag>,
}

/// All models, as they are declared at this moment. Cloning it clones a pointer.
#[derive(Debug, Clone)]
pub(super) struct Declarations(Arc<ArcSwap<BTreeMap<ModelName, Arc<Declared>>>>);

/// Another configuration of the same models.
pub(super) struct Redeclare {
    pub(super) declared: BTreeMap<ModelName, Declared>,
    /// What is new of each model, for the audit log.
    pub(super) news: BTreeMap<ModelName, String>,
    pub(super) by: Change,
}

impl Declarations {
    pub(super) fn new(declared: BTreeMap<ModelName, Declared>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(shared(declared))))
    }

    pub(super) fn all(&self) -> BTreeMap<ModelName, Declared> {
        let declared = self.0.load_full();
        declared.iter().map(|(model, declared)| (model.clone(), Declared::clone(declared))).collect()
    }

    pub(super) fn get(&self, model: &ModelName) -> Option<Arc<Declared>> {
        self.0.load().get(model).cloned()
    }
}

fn shared(declared: BTreeMap<ModelName, Declared>) -> BTreeMap<ModelName, Arc<Declared>> {
    declared.into_iter().map(|(model, declared)| (model, Arc::new(declared))).collect()
}

impl Owner {
    /// Swaps what is declared, and the flags that no operator has set. Refused, with nothing changed, where a version is
    /// missing that is needed.
    pub(super) async fn redeclare(&self, new: Redeclare) -> Result<(), ReleaseError> {
        let Redeclare { declared, news, by } = new;
        for (model, now) in &*self.declared.0.load_full() {
            let after = declared.get(model).map(|declared| &declared.versions);
            for version in now.versions.iter().filter(|v| !after.is_some_and(|after| after.contains(*v))) {
                let version = VersionRef { model: model.clone(), version: version.clone() };
                can_leave(version, (&self.routes, &self.rollouts, &self.experiments))?;
            }
        }
        let flags = flags::restored(&self.store, &declared).await?;
        for (model, news) in news {
            self.store.record(&audit_line(&model, AuditAction::Configure, news, &by)).await?;
        }
        let mut table = (*self.routes.snapshot()).clone();
        for (model, flags) in flags {
            let (route, versions) =
                (table.get(&model), declared.get(&model).map(|declared| &declared.versions));
            if let Some((route, versions)) = route.zip(versions) {
                // a version that leaves can no longer be rolled back to
                table = table.with(&model, route.leading_back_to(versions));
            }
            table = table.with_flags(&model, flags);
        }
        self.declared.0.store(Arc::new(shared(declared)));
        self.routes.publish(table);
        Ok(())
    }
}

/// What routes, rollouts and experiments say of a version that is to leave the configuration.
pub(super) fn can_leave(
    version: VersionRef,
    (routes, rollouts, experiments): (&Routes, &Running, &Experiments),
) -> Result<(), ReleaseError> {
    let VersionRef { model, version: name } = &version;
    let table = routes.snapshot();
    if let Some(weight) = table.get(model).and_then(|route| route.weights().get(name)).copied() {
        return Err(ReleaseError::HasWeight { version, weight });
    }
    if let Some(rollout) = rollouts.get(model).filter(|r| r.stable == *name || r.canary == *name) {
        return Err(ReleaseError::NeededBy { version, what: format!("rollout {}", rollout.id) });
    }
    if let Some(experiment) = experiments.get(model).filter(|e| e.control == *name || e.treatment == *name) {
        return Err(ReleaseError::NeededBy { version, what: format!("experiment {}", experiment.id) });
    }
    Ok(())
}

impl Releases {
    /// Whether a version may leave the configuration: nobody is routed to it, and nothing compares it with another.
    pub fn can_leave(&self, version: &VersionRef) -> Result<(), ReleaseError> {
        can_leave(version.clone(), (&self.routes(), self.rollouts(), self.experiments()))
    }
}
