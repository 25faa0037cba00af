//! What follows where the configuration wants another version for a model.
//!
//! A wish is acted on once, and the store says which was last. What came of it is the rollout's affair from then on: one
//! that is aborted is not begun again because the file still says so.

use super::changes::{Begin, Change, Kind, OnConflict};
use super::error::ReleaseError;
use super::owner::{Owner, audit_line};
use super::rollout::{Command, Event, Rollout, RolloutId};
use super::route::Route;
use super::view::AuditAction;
use crate::ids::VersionName;

/// What a wish comes to, as matters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Nothing: the version has all traffic.
    InForce,
    /// Nothing: this rollout is on its way there.
    UnderWay(RolloutId),
    /// The rollout that runs would lead away from the version, which has most traffic still: it is aborted.
    Abort(RolloutId),
    /// The version had all traffic before: it gets it back at once.
    SwitchBack {
        /// The rollout that is aborted first, if one runs.
        aborts: Option<RolloutId>,
    },
    /// The version is new to users: it is rolled out.
    RollOut {
        /// The rollout whose place the new one takes, if one runs.
        supersedes: Option<RolloutId>,
    },
}

/// What it comes to that a model is to have this version.
pub fn intent(wanted: &VersionName, route: &Route, running: Option<&Rollout>) -> Intent {
    let was_stable = route.rollback_points.iter().any(|point| point.version == *wanted);
    match running {
        Some(rollout) if rollout.canary == *wanted => Intent::UnderWay(rollout.id),
        Some(rollout) if rollout.stable == *wanted => Intent::Abort(rollout.id),
        running if was_stable && route.stable_alone() != Some(wanted) => {
            Intent::SwitchBack { aborts: running.map(|rollout| rollout.id) }
        }
        Some(rollout) => Intent::RollOut { supersedes: Some(rollout.id) },
        None if route.stable_alone() == Some(wanted) => Intent::InForce,
        None => Intent::RollOut { supersedes: None },
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
        let table = self.routes.snapshot();
        let route = table.get(&model).ok_or_else(|| ReleaseError::UnknownModel { model: model.clone() })?;
        let running = self.rollouts.get(&model);
        let intent = intent(&version, route, running.as_deref());
        let abort = || Event::Operator { command: Command::Abort, by: by.clone() };
        match intent {
            Intent::InForce | Intent::UnderWay(_) => {}
            Intent::Abort(id) => drop(self.move_rollout(&model, id, abort()).await?),
            Intent::SwitchBack { aborts } => {
                if let Some(id) = aborts {
                    self.move_rollout(&model, id, abort()).await?;
                }
                self.apply(&model, Kind::RollbackTo(version.clone()), by).await?;
            }
            Intent::RollOut { .. } => {
                let begin = Begin { conflict: OnConflict::Supersede, ..begin };
                self.begin(begin, by).await?;
            }
        }
        let was = before.map(|before| format!(" (was {before})")).unwrap_or_default();
        let detail = format!("version {version}{was}");
        let line = audit_line(&model, AuditAction::Configure, detail, by);
        self.store.set_wanted(&model, &version, &line).await?;
        Ok(Followed::Now(intent))
    }
}
