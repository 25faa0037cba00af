//! The watcher's part in leading and following: who leads judges what all replicas saw.
//!
//! A leader that takes over does what a server does after a restart: what was written down counts, and so does what was
//! sent since, for it is deleted only by the stroke that writes it down. A leader that is replaced forgets what it knew.

use super::analysis::{Arm, Outcome, UserCell};
use super::parcels::{self, Item, Of};
use super::rollout::{Rollout, RolloutId};
use super::watcher::Watcher;
use crate::ids::{ModelName, VersionName};
use crate::store::{Role, Taken};

/// Parcels that are read at once: of some hundred kilobytes each at most.
const AT_ONCE: u32 = 16;

/// How many looks a follower leaves out before it reads anew what is known of experiments, and a leader before it forgets
/// what was sent of those that have ended.
const LOOKS: u32 = 30;

impl Watcher {
    pub(super) fn leads(&self) -> bool {
        matches!(self.role, Role::Leads { .. })
    }

    /// Begins to lead or to follow, where that has changed.
    pub(super) async fn take_role(&mut self) {
        let role = *self.releases.store().role().borrow();
        if role == self.role {
            return;
        }
        self.role = role;
        self.releases.store().acts_as(role);
        self.forget();
        if self.leads() {
            self.experiments.take_up().await;
            self.take_up().await;
            // what this replica saw while it followed
            for (model, items) in self.sending.take_all() {
                for item in items {
                    self.take_item(&model, item);
                }
            }
        }
    }

    /// A look of a replica that follows: it sends what it saw.
    pub(super) async fn look_as_follower(&mut self) {
        self.sending.follow(&self.releases, self.clock.now());
        self.sending.send(&self.releases).await;
        self.looks = (self.looks + 1) % LOOKS;
        if self.looks == 0 && !self.releases.experiments.all().is_empty() {
            self.experiments.take_up().await;
        }
    }

    /// Lets another lead, with all that this one has seen. What is seen from now on is sent.
    pub(super) async fn step_down(&mut self) {
        if !self.releases.store().is_shared() {
            return;
        }
        if self.leads() {
            self.take_parcels().await;
            self.save_all().await;
            self.experiments.save_all(&self.taken).await;
        }
        self.releases.store().resign();
        self.role = Role::Follows;
        self.releases.store().acts_as(Role::Follows);
        self.forget();
    }

    fn forget(&mut self) {
        self.desks.clear();
        self.earlier.clear();
        self.experiments.forget();
        self.taken.clear();
    }

    /// Takes in what other replicas sent of models whose comparison this one has.
    pub(super) async fn take_parcels(&mut self) {
        if !self.releases.store().is_shared() {
            return;
        }
        let desks = self.desks.keys().filter(|model| !self.earlier.contains_key(*model));
        let models: Vec<ModelName> = desks.chain(self.experiments.models()).cloned().collect();
        for model in models {
            loop {
                let after = self.taken.get(&model).copied().unwrap_or_default();
                let rows = match self.releases.store().parcels(&model, after, AT_ONCE).await {
                    Ok(rows) => rows,
                    Err(error) => {
                        tracing::debug!(%error, "what other replicas saw could not be read");
                        return;
                    }
                };
                let last = rows.len() < AT_ONCE as usize;
                for row in rows {
                    for item in parcels::read(&row.body) {
                        self.take_item(&model, item);
                    }
                    self.taken.insert(model.clone(), row.id);
                }
                if last {
                    break;
                }
            }
        }
    }

    /// Forgets, every so often, what was sent of comparisons that have ended.
    pub(super) async fn forget_parcels(&mut self) {
        self.looks = (self.looks + 1) % LOOKS;
        if self.looks != 0 {
            return;
        }
        let rollouts = self.releases.rollouts().all().into_iter().map(|rollout| rollout.model.clone());
        let experiments =
            self.releases.experiments.all().into_iter().map(|experiment| experiment.model.clone());
        let compared: Vec<ModelName> = rollouts.chain(experiments).collect();
        if let Err(error) = self.releases.store().forget_parcels_but(&compared).await {
            tracing::debug!(%error, "what was sent of ended comparisons could not be forgotten");
        }
    }

    fn take_item(&mut self, model: &ModelName, item: Item) {
        match item {
            Item::Answer { of: Of::Experiment { id }, seen } => {
                if self.releases.running_experiment(model) == Some(id) {
                    self.experiments.observe(&seen);
                }
            }
            Item::Answer { of: Of::Rollout { id, weight, mirror }, seen } => {
                let now = self.clock.now();
                let Some((rollout, arm, desk)) = self.desk_of(&seen.version) else { return };
                desk.follow(&rollout, now);
                // the share of another time, as that of an answer to an earlier request
                if desk.rollout == id && desk.exposure == (weight, mirror) {
                    desk.take(&rollout, arm, &seen);
                }
            }
            Item::Word { rollout, version, user, passed } => {
                self.take_word(model, rollout, &version, user, passed);
            }
        }
    }

    /// Counts a word about an answer that was given since the rollout began.
    pub(super) fn take_word(
        &mut self,
        model: &ModelName,
        id: RolloutId,
        version: &VersionName,
        user: u64,
        passed: bool,
    ) {
        let check = self.models.get(model).and_then(|watched| watched.feedback.clone());
        let version = crate::ids::VersionRef { model: model.clone(), version: version.clone() };
        let (Some(check), Some((_, arm, desk))) = (check, self.desk_of(&version)) else { return };
        if desk.rollout == id {
            let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
            desk.panel.observe_check(arm, UserCell::of(user), check.name.as_str(), outcome);
        }
    }

    /// How far what is sent of a model is in its evidence.
    pub(super) fn taken_of(&self, model: &ModelName) -> Option<Taken> {
        self.taken.get(model).map(|through| Taken { model: model.clone(), through: *through })
    }
}

/// The side of a rollout that a version is on.
pub(super) fn arm_of(rollout: &Rollout, version: &VersionName) -> Option<Arm> {
    match version {
        version if *version == rollout.canary => Some(Arm::Canary),
        version if *version == rollout.stable => Some(Arm::Stable),
        _ => None,
    }
}
