//! What follows where the configuration wants another version for a model.
//!
//! A wish is acted on once, and the store says which was last. What came of it is the rollout's affair from then on: one
//! that is aborted is not begun again because the file still says so.

use std::collections::BTreeMap;

use super::changes::{Begin, Change, Kind, OnConflict};
use super::error::ReleaseError;
use super::owner::{Owner, audit_line};
use super::rollout::{Command, Event, Rollout, RolloutId};
use super::route::Route;
use super::view::AuditAction;
use crate::ids::{ModelName, VersionName, VersionRef, Weight};

/// What a wish comes to, as matters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Nothing: the version has all traffic.
    InForce,
    /// Nothing: this rollout is on its way there.
    UnderWay(RolloutId),
    /// The version has had all traffic before, or what has it is gone: it gets it at once.
    TakeBack {
        /// The rollout that is aborted for it, if one runs.
        aborts: Option<RolloutId>,
    },
    /// The version is new to users: it is rolled out.
    RollOut {
        /// The rollout whose place the new one takes, if one runs.
        supersedes: Option<RolloutId>,
    },
}

/// What it comes to that a model is to have this version. `is_declared` tells of the model's other versions: one that has left
/// the configuration cannot be compared with.
pub fn intent(
    wanted: &VersionName,
    route: &Route,
    running: Option<&Rollout>,
    is_declared: impl Fn(&VersionName) -> bool,
) -> Intent {
    let id = running.map(|rollout| rollout.id);
    match running {
        Some(rollout) if rollout.canary == *wanted => return Intent::UnderWay(rollout.id),
        Some(rollout) if rollout.stable == *wanted => return Intent::TakeBack { aborts: id },
        None if route.stable_alone() == Some(wanted) => return Intent::InForce,
        _ => {}
    }
    let stable = running.map_or(route.stable(), |rollout| &rollout.stable);
    if route.leads_back_to(wanted) || !is_declared(stable) {
        Intent::TakeBack { aborts: id }
    } else {
        Intent::RollOut { supersedes: id }
    }
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// It had been acted on before.
    Before,
    /// This was done now.
    Now(Intent),
}

impl Owner {
    /// Acts on a wish for the canary of `begin`, unless it was acted on before.
    pub(super) async fn follow(&self, begin: Begin, by: &Change) -> Result<Followed, ReleaseError> {
        let (model, version) = (begin.model.clone(), begin.canary.clone());
        let before = self.store.wanted(&model).await?;
        if before.as_ref() == Some(&version) {
            return Ok(Followed::Before);
        }
        let intent = self.intent(&model, &version)?;
        match intent {
            Intent::InForce | Intent::UnderWay(_) => {}
            Intent::TakeBack { aborts } => self.take_back(&model, &version, aborts, by).await?,
            Intent::RollOut { .. } => {
                let begin = Begin { conflict: OnConflict::Supersede, ..begin };
                self.begin(begin, by).await?;
            }
        }
        self.followed(&model, &version, before.as_ref(), by).await?;
        Ok(Followed::Now(intent))
    }

    /// Gives a version all traffic by a wish that takes it back, if that is what the wish comes to; whether it was.
    pub(super) async fn follow_back(
        &self,
        model: &ModelName,
        version: &VersionName,
        by: &Change,
    ) -> Result<(), ReleaseError> {
        if let Intent::TakeBack { aborts } = self.intent(model, version)? {
            let before = self.store.wanted(model).await?;
            self.take_back(model, version, aborts, by).await?;
            self.followed(model, version, before.as_ref(), by).await?;
        }
        Ok(())
    }

    /// Whether a wish that was not acted on yet takes traffic back; an error where the version could not take it now.
    pub(super) async fn takes_back(
        &self,
        model: &ModelName,
        version: &VersionName,
    ) -> Result<bool, ReleaseError> {
        let takes_back = matches!(self.intent(model, version)?, Intent::TakeBack { .. });
        if !takes_back || self.store.wanted(model).await?.as_ref() == Some(version) {
            return Ok(false);
        }
        self.can_take_back(model, version).map(|()| true)
    }

    fn intent(&self, model: &ModelName, version: &VersionName) -> Result<Intent, ReleaseError> {
        let table = self.routes.snapshot();
        let unknown = || ReleaseError::UnknownModel { model: model.clone() };
        let (route, declared) =
            (table.get(model).ok_or_else(unknown)?, self.declared.get(model).ok_or_else(unknown)?);
        let running = self.rollouts.get(model);
        Ok(intent(version, route, running.as_deref(), |version| declared.versions.contains(version)))
    }

    fn can_take_back(&self, model: &ModelName, version: &VersionName) -> Result<(), ReleaseError> {
        let experiment = self.experiments.get(model);
        if let Some(running) = experiment.filter(|experiment| experiment.control == *version) {
            return Err(ReleaseError::ExperimentRuns { model: model.clone(), id: running.id });
        }
        let version = VersionRef { model: model.clone(), version: version.clone() };
        if self.readiness.is_ready(&version) { Ok(()) } else { Err(ReleaseError::NotHot { version }) }
    }

    async fn take_back(
        &self,
        model: &ModelName,
        version: &VersionName,
        aborts: Option<RolloutId>,
        by: &Change,
    ) -> Result<(), ReleaseError> {
        // before anything is aborted for its sake
        self.can_take_back(model, version)?;
        if let Some(id) = aborts {
            let abort = Event::Operator { command: Command::Abort, by: by.clone() };
            self.move_rollout(model, id, abort).await?;
        }
        let table = self.routes.snapshot();
        let route = table.get(model).ok_or_else(|| ReleaseError::UnknownModel { model: model.clone() })?;
        if route.stable_alone() == Some(version) {
            return Ok(());
        }
        let kind = if route.leads_back_to(version) {
            Kind::Rollback { to: Some(version.clone()) }
        } else {
            Kind::SetWeights(BTreeMap::from([(version.clone(), Weight::FULL)]))
        };
        self.apply(model, kind, by).await.map(drop)
    }

    async fn followed(
        &self,
        model: &ModelName,
        version: &VersionName,
        before: Option<&VersionName>,
        by: &Change,
    ) -> Result<(), ReleaseError> {
        let was = before.map(|before| format!(" (was {before})")).unwrap_or_default();
        let line = audit_line(model, AuditAction::Configure, format!("version {version}{was}"), by);
        Ok(self.store.set_wanted(model, version, &line).await?)
    }
}
