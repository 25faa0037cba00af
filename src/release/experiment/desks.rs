//! The watcher's part in experiments: takes answers in, shows what is known, and lets time pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::state::{Experiment, ExperimentEvent};
use crate::clock::Clock;
use crate::config::Judges;
use crate::ids::{ExperimentId, ModelName, VersionName, VersionRef, Weight};
use crate::release::analysis::{Arm, Differences, UserCell};
use crate::release::desk::{names, outcomes};
use crate::release::watcher::{Request, Seen};
use crate::release::{Presence, Readiness, ReleaseError, Releases, Watched, WatchedCheck};
use crate::store::{StoreError, Taken};

/// How often the evidence is written down, so that a restart goes on from there. It is some megabytes, as it knows each
/// user's answers, and an experiment takes days.
const SAVE_EVERY: Duration = Duration::from_mins(1);

/// The comparisons of all experiments.
pub(in crate::release) struct Desks {
    releases: Releases,
    readiness: Arc<dyn Readiness>,
    clock: Arc<dyn Clock>,
    models: BTreeMap<ModelName, Watched>,
    by_model: BTreeMap<ModelName, Desk>,
}

struct Desk {
    experiment: ExperimentId,
    checks: Vec<WatchedCheck>,
    differences: Differences,
    saved: Timestamp,
}

impl Desks {
    pub(in crate::release) fn new(
        releases: Releases,
        readiness: Arc<dyn Readiness>,
        clock: Arc<dyn Clock>,
        models: BTreeMap<ModelName, Watched>,
    ) -> Self {
        Self { releases, readiness, clock, models, by_model: BTreeMap::new() }
    }

    /// Goes on with the experiments of an earlier process, or of another replica.
    pub(in crate::release) async fn take_up(&mut self) {
        for experiment in self.releases.experiments().all() {
            if let Some(desk) = self.resumed(&experiment).await {
                self.by_model.insert(experiment.model.clone(), desk);
            }
        }
        self.tell();
    }

    /// The comparison as it was last written; nothing while a database that replicas share is lost, as what it has must
    /// not be written over.
    async fn resumed(&self, experiment: &Experiment) -> Option<Desk> {
        let mut desk = self.desk_of(experiment);
        match self.releases.store().load_evidence(experiment.id).await {
            Ok(written) => desk.differences.resume(&written),
            Err(error) if error.is_passing() => return None,
            Err(error) => {
                tracing::error!(model = %experiment.model, %error, "the evidence of an experiment could not be read");
            }
        }
        Some(desk)
    }

    pub(in crate::release) fn observe(&mut self, seen: &Seen) {
        let VersionRef { model, version } = &seen.version;
        let Some(experiment) = self.releases.experiments().get(model) else { return };
        // A late copy of an earlier rollout's.
        if seen.request == Request::Copy {
            return;
        }
        let arm = match version {
            version if *version == experiment.treatment => Arm::Canary,
            version if *version == experiment.control => Arm::Stable,
            _ => return,
        };
        let Some(desk) = self.by_model.get_mut(model).filter(|desk| desk.experiment == experiment.id) else {
            return;
        };
        let outcomes = outcomes(&desk.checks, &seen.answer, Weight::ZERO);
        desk.differences.observe(arm, UserCell::of(seen.user), outcomes.as_deref(), &seen.measured);
    }

    /// The models whose experiment it compares.
    pub(in crate::release) fn models(&self) -> impl Iterator<Item = &ModelName> {
        self.by_model.keys()
    }

    /// Another replica compares from now on.
    pub(in crate::release) fn forget(&mut self) {
        self.by_model.clear();
    }

    /// `taken` tells how far what other replicas sent of each model is in what was seen.
    pub(in crate::release) async fn look(&mut self, taken: &BTreeMap<ModelName, i64>) {
        let running = self.releases.experiments().all();
        self.by_model.retain(|model, desk| {
            running.iter().any(|experiment| experiment.model == *model && experiment.id == desk.experiment)
        });
        for experiment in &running {
            if !self.by_model.contains_key(&experiment.model) {
                // another replica may have led when it began
                let desk = if self.releases.store().is_shared() {
                    self.resumed(experiment).await
                } else {
                    Some(self.desk_of(experiment))
                };
                if let Some(desk) = desk {
                    self.by_model.insert(experiment.model.clone(), desk);
                }
            }
        }
        self.tell();
        for experiment in running {
            self.save(&experiment, SAVE_EVERY, taken).await;
            let model = experiment.model.clone();
            let presence = |version: &VersionName| {
                self.readiness.presence(&VersionRef { model: model.clone(), version: version.clone() })
            };
            let event = match (presence(&experiment.control), presence(&experiment.treatment)) {
                (Presence::Hot, Presence::Hot) => ExperimentEvent::Tick,
                (Presence::Gone, _) => ExperimentEvent::ControlDied,
                (_, Presence::Gone) => ExperimentEvent::TreatmentDied,
                // What is on its way has not died.
                (Presence::Coming, _) | (_, Presence::Coming) => continue,
            };
            match self.releases.move_experiment(model.clone(), experiment.id, event).await {
                // An operator was faster.
                Ok(_) | Err(ReleaseError::NoExperiment { .. } | ReleaseError::Stopping) => {}
                Err(ReleaseError::Store(error)) if error.is_passing() => {
                    tracing::debug!(model = %experiment.model, %error, "an experiment waits for the store");
                }
                Err(error) => {
                    tracing::error!(model = %experiment.model, %error, "an experiment could not be moved");
                }
            }
        }
    }

    pub(in crate::release) async fn save_all(&mut self, taken: &BTreeMap<ModelName, i64>) {
        for experiment in self.releases.experiments().all() {
            self.save(&experiment, Duration::ZERO, taken).await;
        }
    }

    fn desk_of(&self, experiment: &Experiment) -> Desk {
        let checks = self.models.get(&experiment.model).map(|watched| watched.checks.clone());
        let mut checks = checks.unwrap_or_default();
        // Who rates an answer, and when, is not what an experiment can compare.
        checks.retain(|check| check.judges != Judges::Reception);
        let differences = Differences::new(&names(&checks), experiment.confidence.get());
        Desk { experiment: experiment.id, checks, differences, saved: self.clock.now() }
    }

    fn tell(&self) {
        let known = self.by_model.values().map(|desk| (desk.experiment, desk.differences.findings().into()));
        self.releases.experiments().tell(known.collect());
    }

    /// Writes down what was seen, if that was last done so long ago.
    async fn save(&mut self, experiment: &Experiment, every: Duration, taken: &BTreeMap<ModelName, i64>) {
        let now = self.clock.now();
        let Some(desk) = self.by_model.get_mut(&experiment.model) else { return };
        if now.duration_since(desk.saved).unsigned_abs() < every {
            return;
        }
        desk.saved = now;
        let snapshots = desk.differences.snapshots();
        let model = &experiment.model;
        let taken = taken.get(model).map(|through| Taken { model: model.clone(), through: *through });
        let saving = self.releases.store().save_evidence(experiment.id, &snapshots, taken.as_ref());
        if let Err(error) = saving.await.or_else(StoreError::unless_passing) {
            tracing::error!(model = %experiment.model, %error, "the evidence of an experiment could not be written");
        }
    }
}
