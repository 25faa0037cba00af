//! What the configuration wants of traffic: a model's `version` is followed, once, as soon as that can be done.
//!
//! One task follows all wishes. What cannot be followed yet (its version is being loaded, an experiment runs) is tried again
//! and again, and readers are told what it waits for. What was followed is in the store: a rollout that was aborted is not
//! begun again by a restart, only by another change of the file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Gateway;
use super::reload::{ACTOR, reason, told};
use super::residency::LoadTo;
use super::state::State;
use crate::config::{Config, Pause, Policy, Step};
use crate::ids::{ModelName, RolloutId, VersionName, VersionRef};
use crate::release::rollout::shown;
use crate::release::{Change, Followed, Intent, OnConflict, ReleaseError, intent};

/// How often a wish is tried that has to wait.
const RETRY: Duration = Duration::from_millis(100);

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

/// The wishes that wait, as readers see them, and the way to who follows them.
#[derive(Default)]
pub(super) struct Wishes {
    waiting: ArcSwap<BTreeMap<ModelName, String>>,
    changed: Notify,
}

impl Wishes {
    /// Says that a wish may be new, or may be followed now.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }
}

impl Gateway {
    /// What the configuration wants of traffic, and what has become of it.
    pub fn wishes(&self) -> Vec<Wish> {
        let (settings, waiting) = (self.inner().settings.load(), self.inner().wishes.waiting.load());
        let wish = |(model, version): (&ModelName, &VersionName)| {
            let state = match (waiting.get(model), self.intent(model, version)) {
                (Some(why), _) => WishState::Waits(why.clone()),
                (None, Some(Intent::InForce)) => WishState::InForce,
                (None, Some(Intent::UnderWay(id))) => WishState::UnderWay(id),
                (None, _) => WishState::Overridden,
            };
            Wish { model: model.clone(), version: version.clone(), state }
        };
        settings
            .models
            .iter()
            .filter_map(|(model, config)| Some((model, config.version.as_ref()?)))
            .map(wish)
            .collect()
    }

    /// What a wish comes to, as matters stand; nothing of a model without a route.
    fn intent(&self, model: &ModelName, version: &VersionName) -> Option<Intent> {
        let routes = self.inner().routes.snapshot();
        let running = self.inner().releases.rollouts().get(model);
        Some(intent(version, routes.get(model)?, running.as_deref()))
    }

    /// Follows wishes until the server stops, once the first loads are over.
    pub(super) async fn follow_wishes(self) {
        let stop = self.inner().stop.clone();
        if stop.run_until_cancelled(self.settled()).await.is_none() {
            return;
        }
        let mut done = BTreeMap::new();
        loop {
            let waiting = self.follow_all(&mut done).await;
            let retry = if waiting.is_empty() { Duration::MAX } else { RETRY };
            self.inner().wishes.waiting.store(Arc::new(waiting));
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner().wishes.changed.notified() => {}
                () = tokio::time::sleep(retry) => {}
            }
        }
    }

    /// Follows what is not `done`; what has to wait, and why.
    async fn follow_all(&self, done: &mut BTreeMap<ModelName, VersionName>) -> BTreeMap<ModelName, String> {
        let (settings, status) = (self.inner().settings.load_full(), self.config_status());
        let configuration = told(&status.file, status.digest);
        let mut waiting = BTreeMap::new();
        for (model, config) in &settings.models {
            let Some(version) = &config.version else { continue };
            if done.get(model) == Some(version) {
                continue;
            }
            match self.follow_one(model, version, &configuration).await {
                Ok(()) => drop(done.insert(model.clone(), version.clone())),
                Err(why) => {
                    if self.inner().wishes.waiting.load().get(model) != Some(&why) {
                        tracing::info!(%model, %version, %why, "the configuration's version has to wait");
                    }
                    waiting.insert(model.clone(), why);
                }
            }
        }
        waiting
    }

    /// Whether following a configuration's wish gives a model's users back what they had before.
    pub(super) async fn takes_back(&self, new: &Config, model: &ModelName) -> bool {
        let Some(version) = new.models.get(model).and_then(|config| config.version.as_ref()) else {
            return false;
        };
        let intent = self.intent(model, version);
        let takes_back = matches!(intent, Some(Intent::Abort(_) | Intent::SwitchBack { .. }));
        takes_back
            && !matches!(self.inner().releases.followed(model).await, Ok(Some(followed)) if followed == *version)
    }

    /// Follows the wishes of a configuration that give users back what they had before.
    pub(super) async fn take_back(&self, new: &Config) -> Result<(), String> {
        for (model, config) in &new.models {
            if let Some(version) = &config.version
                && self.takes_back(new, model).await
            {
                self.follow_one(model, version, &reason(new)).await?;
            }
        }
        Ok(())
    }

    /// Follows one wish of a configuration that is told by its name and digest; or what it has to wait for.
    async fn follow_one(
        &self,
        model: &ModelName,
        version: &VersionName,
        configuration: &str,
    ) -> Result<(), String> {
        let reason = format!("{configuration} says `version: {version}`");
        let by = Change { actor: ACTOR.to_owned(), reason };
        let begin = self.rollout_of(model, version.clone(), None, OnConflict::Supersede);
        let begin = begin.map_err(|error| error.to_string())?;
        match self.inner().releases.follow(begin, by).await {
            Ok(followed) => {
                if let Followed::Now(intent) = followed {
                    tracing::info!(%model, %version, ?intent, "the configuration's version is followed");
                }
                self.inner().suite_wanted.notify_one();
                Ok(())
            }
            Err(ReleaseError::NotHot { version }) => Err(self.load_for_wish(version)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Sees to it that a version gets hot; what it waits for.
    fn load_for_wish(&self, version: VersionRef) -> String {
        let table = self.inner().residency.table();
        match table.get(&version) {
            Some(State::Cold | State::Warm(_)) => {
                let this = self.clone();
                let why = format!("{version} is being loaded");
                tokio::spawn(async move {
                    // a failure is in its state, in the log and in the metrics
                    let _ = this.inner().residency.load(&version, LoadTo::Hot).await;
                    this.inner().wishes.wake();
                });
                why
            }
            Some(state) => match state.failure() {
                Some(failure) => format!("{version} cannot be loaded: {failure}"),
                None => format!("{version} is {}", state.name()),
            },
            None => format!("{version} is not declared"),
        }
    }

    /// What would follow if a configuration wanted a version, in words.
    pub(super) async fn what_follows(
        &self,
        new: &Config,
        model: &ModelName,
        version: &VersionName,
    ) -> String {
        if matches!(self.inner().releases.followed(model).await, Ok(Some(followed)) if followed == *version) {
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
            Intent::Abort(rollout) => format!("{} is aborted, at once", of(rollout)),
            Intent::SwitchBack { aborts: None } => {
                "it had all traffic before, and gets it back at once".to_owned()
            }
            Intent::SwitchBack { aborts: Some(rollout) } => {
                format!("{} is aborted, and what had all traffic before gets it back at once", of(rollout))
            }
            Intent::RollOut { supersedes } => {
                let settings = new.models.get(model);
                let suite = settings.and_then(|settings| settings.suite.as_ref());
                let suite = suite.map(|suite| format!(" once it has passed {}", suite.file.display()));
                let policy = settings.and_then(|settings| settings.policy.as_ref());
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
