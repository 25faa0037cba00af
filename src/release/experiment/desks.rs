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

    /// Goes on with the experiments of an earlier process.
    pub(in crate::release) async fn take_up(&mut self) {
        for experiment in self.releases.experiments().all() {
            let mut desk = self.desk_of(&experiment);
            match self.releases.store().load_evidence(experiment.id).await {
                Ok(written) => desk.differences.resume(&written),
                Err(error) => {
                    tracing::error!(model = %experiment.model, %error, "the evidence of an experiment could not be read");
                }
            }
            self.by_model.insert(experiment.model.clone(), desk);
        }
        self.tell();
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

    pub(in crate::release) async fn look(&mut self) {
        let running = self.releases.experiments().all();
        self.by_model.retain(|model, desk| {
            running.iter().any(|experiment| experiment.model == *model && experiment.id == desk.experiment)
        });
        for experiment in &running {
            if !self.by_model.contains_key(&experiment.model) {
                let desk = self.desk_of(experiment);
                self.by_model.insert(experiment.model.clone(), desk);
            }
        }
        self.tell();
        for experiment in running {
            self.save(&experiment, SAVE_EVERY).await;
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
                Err(error) => {
                    tracing::error!(model = %experiment.model, %error, "an experiment could not be moved");
                }
            }
        }
    }

    pub(in crate::release) async fn save_all(&mut self) {
        for experiment in self.releases.experiments().all() {
            self.save(&experiment, Duration::ZERO).await;
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
    async fn save(&mut self, experiment: &Experiment, every: Duration) {
        let now = self.clock.now();
        let Some(desk) = self.by_model.get_mut(&experiment.model) else { return };
        if now.duration_since(desk.saved).unsigned_abs() < every {
            return;
        }
        desk.saved = now;
        let snapshots = desk.differences.snapshots();
        if let Err(error) = self.releases.store().save_evidence(experiment.id, &snapshots).await {
            tracing::error!(model = %experiment.model, %error, "the evidence of an experiment could not be written");
        }
    }
}
