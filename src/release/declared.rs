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
use super::owner::{Owner, append, audit_line};
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
    /// The version that is to have all traffic, if one is named.
    pub wanted: Option<VersionName>,
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
    /// missing that is needed, unless what the configuration wants takes its traffic away: that is done first.
    pub(super) async fn redeclare(&self, new: Redeclare) -> Result<(), ReleaseError> {
        let Redeclare { declared, news, by } = new;
        let before = self.declared.0.load_full();
        let taken_back = self.taken_back(&before, &declared).await?;
        let flags = flags::restored(&self.store, &declared).await?;
        for (model, version) in taken_back {
            self.follow_back(&model, &version, &by).await?;
        }
        for (model, news) in news {
            self.store.record(&audit_line(&model, AuditAction::Configure, news, &by)).await?;
        }
        for (model, now) in &declared {
            let was = before.get(model).and_then(|before| before.wanted.as_ref());
            if let (Some(was), None) = (was, &now.wanted) {
                let detail = format!("no version (was {was})");
                let line = audit_line(model, AuditAction::Configure, detail, &by);
                self.store.forget_wanted(model, &line).await?;
            }
            self.forget_points(model, &now.versions, &by).await?;
        }
        let mut table = (*self.routes.snapshot()).clone();
        for (model, flags) in flags {
            table = table.with_flags(&model, flags);
        }
        self.declared.0.store(Arc::new(shared(declared)));
        self.routes.publish(table);
        Ok(())
    }

    /// The models whose users get back what they had because a version leaves that they have now.
    async fn taken_back(
        &self,
        before: &BTreeMap<ModelName, Arc<Declared>>,
        declared: &BTreeMap<ModelName, Declared>,
    ) -> Result<BTreeMap<ModelName, VersionName>, ReleaseError> {
        let mut taken_back = BTreeMap::new();
        for (model, now) in before {
            let after = declared.get(model);
            let leaves =
                |version: &&VersionName| !after.is_some_and(|after| after.versions.contains(*version));
            for version in now.versions.iter().filter(leaves) {
                let leaving = VersionRef { model: model.clone(), version: version.clone() };
                let Err(needed) = can_leave(leaving, (&self.routes, &self.rollouts, &self.experiments))
                else {
                    continue;
                };
                let Some(wanted) = after.and_then(|after| after.wanted.as_ref()) else { return Err(needed) };
                if !self.takes_back(model, wanted).await? {
                    return Err(needed);
                }
                taken_back.insert(model.clone(), wanted.clone());
            }
        }
        Ok(taken_back)
    }

    /// A version that leaves can no longer be rolled back to, nor one that comes back under its name as something else.
    async fn forget_points(
        &self,
        model: &ModelName,
        versions: &BTreeSet<VersionName>,
        by: &Change,
    ) -> Result<(), ReleaseError> {
        let table = self.routes.snapshot();
        if let Some(next) = table.get(model).and_then(|route| route.leading_back_to(versions)) {
            append(&self.store, model, &next, AuditAction::Configure, by).await?;
            self.routes.publish(table.with(model, next));
        }
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
    /// Whether a rollback may go to a version, now or later.
    pub fn leads_back_to(&self, version: &VersionRef) -> bool {
        let table = self.routes().snapshot();
        table.get(&version.model).is_some_and(|route| route.leads_back_to(&version.version))
    }

    /// Whether a version may leave the configuration: nobody is routed to it, and nothing compares it with another.
    pub fn can_leave(&self, version: &VersionRef) -> Result<(), ReleaseError> {
        can_leave(version.clone(), (&self.routes(), self.rollouts(), self.experiments()))
    }
}
