//! What the configuration wants of traffic: a model's `version` is followed, once, as soon as that can be done.
//!
//! One task follows all wishes. What cannot be followed yet (its version is being loaded, an experiment runs) is tried again
//! and again, and readers are told what it waits for. What was followed is in the store: a rollout that was aborted is not
//! begun again by a restart, only by another change of the file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Gateway;
use super::reload::{ACTOR, told};
use super::residency::LoadTo;
use super::state::{ResidencyError, State};
use crate::config::{Config, Pause, Policy, Step};
use crate::ids::{ModelName, RolloutId, VersionName, VersionRef};
use crate::release::rollout::shown;
use crate::release::{Change, Followed, Intent, OnConflict, ReleaseError, intent};

/// How often a wish is tried that has to wait.
const RETRY: Duration = Duration::from_millis(100);
/// How long a version that could not be loaded is left alone, at first and at most.
const PATIENCE: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// What the configuration wants for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The model.
    pub model: ModelName,
    /// The version that is to have all traffic.
    pub version: VersionName,
    /// What has become of it.
    pub state: WishState,
}

/// What has become of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WishState {
    /// The version has all traffic.
    InForce,
    /// A rollout is on its way there.
    UnderWay(RolloutId),
    /// It is not followed yet, for this reason.
    Waits(String),
    /// It was followed, and the route is another by now: a rollout was aborted, or somebody changed it.
    Overridden,
}

/// The wishes as far as they were tried, and the way to who follows them.
#[derive(Default)]
pub(super) struct Wishes {
    /// What was wanted when it was last tried, and what that waits for, if it does.
    tried: ArcSwap<BTreeMap<ModelName, Tried>>,
    /// How often the configuration's wish for a model was another than before. A wish is tried until it was followed, and then
    /// no more: where replicas share the store, one whose file is younger may have followed another meanwhile.
    turned: Mutex<BTreeMap<ModelName, u64>>,
    /// Versions that could not be loaded. Nobody on the way of a request looks.
    failures: Mutex<BTreeMap<VersionRef, Failure>>,
    changed: Notify,
}

#[derive(Clone, PartialEq, Eq)]
struct Tried {
    version: VersionName,
    turned: u64,
    waits: Option<String>,
}

#[derive(Clone)]
struct Failure {
    why: String,
    again: Instant,
    patience: Duration,
}

impl Wishes {
    /// Says that a wish may be new, or may be followed now.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Says that a version is another than the one that could not be loaded, or is no more.
    pub(super) fn forget_failure(&self, version: &VersionRef) {
        self.failures.lock().remove(version);
    }

    /// Says that the configuration wants another version for a model than before.
    pub(super) fn turned(&self, model: &ModelName) {
        *self.turned.lock().entry(model.clone()).or_default() += 1;
    }

    /// What a version could not be loaded for, while it is left alone.
    fn failure(&self, version: &VersionRef) -> Option<String> {
        let failures = self.failures.lock();
        failures
            .get(version)
            .filter(|failure| Instant::now() < failure.again)
            .map(|failure| failure.why.clone())
    }

    fn failed(&self, version: &VersionRef, why: String) {
        let mut failures = self.failures.lock();
        let patience =
            failures.get(version).map_or(PATIENCE[0], |before| (before.patience * 2).min(PATIENCE[1]));
        failures.insert(version.clone(), Failure { why, again: Instant::now() + patience, patience });
    }
}

impl Gateway {
    /// What the configuration wants of traffic, and what has become of it.
    pub fn wishes(&self) -> Vec<Wish> {
        let (settings, tried) = (self.inner().settings.load_full(), self.inner().wishes.tried.load());
        let wish = |model: &ModelName, version: &VersionName| {
            let state = match tried.get(model).filter(|tried| tried.version == *version) {
                None => WishState::Waits("it has just come; the first loads come before".to_owned()),
                Some(Tried { waits: Some(why), .. }) => WishState::Waits(why.clone()),
                Some(Tried { waits: None, .. }) => match self.intent(model, version) {
                    Some(Intent::InForce) => WishState::InForce,
                    Some(Intent::UnderWay(id)) => WishState::UnderWay(id),
                    _ => WishState::Overridden,
                },
            };
            Wish { model: model.clone(), version: version.clone(), state }
        };
        let models = settings.config.models.iter();
        models.filter_map(|(model, config)| Some(wish(model, config.version.as_ref()?))).collect()
    }

    /// What a wish comes to, as matters stand; nothing of a model without a route.
    fn intent(&self, model: &ModelName, version: &VersionName) -> Option<Intent> {
        let (routes, settings) = (self.inner().routes.snapshot(), self.inner().settings.load());
        let running = self.inner().releases.rollouts().get(model);
        let versions = &settings.config.models.get(model)?.versions;
        Some(intent(version, routes.get(model)?, running.as_deref(), |version| {
            versions.contains_key(version)
        }))
    }

    /// Follows wishes until the server stops, once the first loads are over.
    pub(super) async fn follow_wishes(self) {
        let stop = self.inner().stop.clone();
        if stop.run_until_cancelled(self.settled()).await.is_none() {
            return;
        }
        loop {
            let waits = self.follow_all().await;
            let retry = if waits { RETRY } else { Duration::MAX };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner().wishes.changed.notified() => {}
                () = tokio::time::sleep(retry) => {}
            }
        }
    }

    /// Follows all that was not followed before; whether something has to wait.
    async fn follow_all(&self) -> bool {
        // what is followed is what is in force, for as long as that takes
        let _turn = self.inner().settings.turn().await;
        let settings = self.inner().settings.load_full();
        let before = self.inner().wishes.tried.load_full();
        let mut tried = BTreeMap::new();
        for (model, config) in &settings.config.models {
            let Some(version) = config.version.clone() else { continue };
            let turned = self.inner().wishes.turned.lock().get(model).copied().unwrap_or_default();
            let done = Tried { version, turned, waits: None };
            if before.get(model) == Some(&done) {
                tried.insert(model.clone(), done);
                continue;
            }
            let waits = self.follow_one(&settings.config, model, &done.version).await.err();
            let now = Tried { waits, ..done };
            if let Some(why) = now.waits.as_ref().filter(|_| before.get(model) != Some(&now)) {
                tracing::info!(%model, version = %now.version, %why, "the configuration's version has to wait");
            }
            tried.insert(model.clone(), now);
        }
        let waits = tried.values().any(|tried| tried.waits.is_some());
        self.inner().wishes.tried.store(Arc::new(tried));
        waits
    }

    /// Follows one wish of a configuration, unless that was done before; or what it has to wait for.
    async fn follow_one(
        &self,
        config: &Config,
        model: &ModelName,
        version: &VersionName,
    ) -> Result<(), String> {
        let reason = format!("{} says `version: {version}`", told(&config.file, config.digest));
        let by = Change { actor: ACTOR.to_owned(), reason };
        let begin = self.rollout_of(model, version.clone(), None, OnConflict::Supersede);
        let begin = begin.map_err(|error| error.to_string())?;
        match self.inner().releases.follow(begin, by).await {
            Ok(Followed::Before) => Ok(()),
            Ok(Followed::Now(intent)) => {
                tracing::info!(%model, %version, ?intent, "the configuration's version is followed");
                self.inner().suite_wanted.notify_one();
                Ok(())
            }
            Err(ReleaseError::NotHot { version }) => Err(self.load_for_wish(&version)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Sees to it that a version gets hot, now or when it was left alone for long enough; what it waits for.
    pub(super) fn load_for_wish(&self, version: &VersionRef) -> String {
        let wishes = &self.inner().wishes;
        if let Some(why) = wishes.failure(version) {
            return format!("{version} cannot be loaded: {why}");
        }
        let state = self.inner().residency.table().get(version).map(State::name);
        let Some(state @ ("cold" | "warm" | "failed")) = state else {
            return format!("{version} is {}", state.unwrap_or("not declared"));
        };
        let (this, version) = (self.clone(), version.clone());
        let why = format!("{version} is {state}, and is being loaded");
        tokio::spawn(async move {
            let wishes = &this.inner().wishes;
            match this.inner().residency.load(&version, LoadTo::Hot).await {
                Ok(()) => drop(wishes.failures.lock().remove(&version)),
                Err(ResidencyError::Failed { why, .. }) => wishes.failed(&version, why),
                // somebody else was faster
                Err(ResidencyError::Busy { .. } | ResidencyError::Unknown(_)) => {}
            }
            wishes.wake();
        });
        why
    }

    /// Whether following a configuration's wish gives a model's users back what they had before.
    pub(super) async fn takes_back(&self, new: &Config, model: &ModelName) -> bool {
        let Some(version) = new.models.get(model).and_then(|config| config.version.as_ref()) else {
            return false;
        };
        let intent = self.intent(model, version);
        matches!(intent, Some(Intent::TakeBack { .. })) && !self.was_followed(model, version).await
    }

    async fn was_followed(&self, model: &ModelName, version: &VersionName) -> bool {
        let followed = self.inner().releases.followed(model).await;
        followed.ok().flatten().as_ref() == Some(version)
    }

    /// What would follow if a configuration wanted a version, in words.
    pub(super) async fn what_follows(
        &self,
        new: &Config,
        model: &ModelName,
        version: &VersionName,
    ) -> String {
        if self.was_followed(model, version).await {
            return "it was followed before, so nothing happens".to_owned();
        }
        let Some(intent) = self.intent(model, version) else {
            return "the model is new".to_owned();
        };
        let of = |rollout: RolloutId| {
            let running = self.inner().releases.rollouts().get(model);
            running.map_or_else(
                || format!("rollout {rollout}"),
                |r| format!("rollout {rollout} of {}", r.canary),
            )
        };
        match intent {
            Intent::InForce => "it has all traffic already".to_owned(),
            Intent::UnderWay(rollout) => format!("{} is on its way there", of(rollout)),
            Intent::TakeBack { aborts: None } => "it gets all traffic back at once".to_owned(),
            Intent::TakeBack { aborts: Some(rollout) } => {
                format!("{} is aborted, and it gets all traffic back at once", of(rollout))
            }
            Intent::RollOut { supersedes } => {
                let config = new.models.get(model);
                let suite = config.and_then(|config| config.suite.as_ref());
                let suite = suite.map(|suite| format!(" once it has passed {}", suite.file.display()));
                let policy = config.and_then(|config| config.policy.as_ref());
                let steps = policy.map_or_else(|| "the ready-made policy that fits".to_owned(), steps);
                let instead = supersedes.map(|rollout| format!(" in the place of {}", of(rollout)));
                let [suite, instead] = [suite, instead].map(Option::unwrap_or_default);
                format!("it is rolled out{instead}{suite}, by {steps}")
            }
        }
    }
}

/// `5 % for 10m, 25 % for 1h, 100 %`.
fn steps(policy: &Policy) -> String {
    let mut told: Vec<String> = Vec::new();
    for step in &policy.steps {
        match step {
            Step::SetWeight(weight) => told.push(format!("{weight} %")),
            Step::SetMirrorRoute(share) => told.push(format!("copies of {share} %")),
            Step::Pause(pause) => {
                let pause = match pause {
                    Pause::For(time) => format!(" for {}", shown(*time)),
                    Pause::UntilResumed => " until resumed".to_owned(),
                };
                match told.last_mut() {
                    Some(last) => last.push_str(&pause),
                    None => told.push(format!("0 %{pause}")),
                }
            }
        }
    }
    told.join(", ")
}
