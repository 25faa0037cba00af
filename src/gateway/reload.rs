//! Another configuration for a server that runs: what it would do, and doing it.
//!
//! All or nothing: a configuration with a part that cannot be taken now changes nothing. What it says of versions is in
//! force when [`Gateway::reload`] returns; what it wants of traffic is `wishes`' to follow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::Gateway;
use super::residency::{LoadTo, UnloadTo};
use super::start::{blueprints, declared};
use super::state::{ResidencyError, State};
use crate::config::{Config, Difference, ModelConfig, Residency as Where, differences};
use crate::ids::{Digest, ModelName, VersionRef};
use crate::prompt::Prompt;
use crate::release::{Change, ReleaseError};
use crate::telemetry::ConfigNews;

/// Who changes what the configuration says.
pub(super) const ACTOR: &str = "configuration";

/// What a configuration would do to the server as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigPlan {
    /// What would change, a line each.
    pub changes: Vec<String>,
    /// Why nothing of it can be done now, a line each; empty if it can.
    pub obstacles: Vec<String>,
}

/// A configuration that was not taken; nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Parts of it cannot be taken now.
    #[error("{}", .0.join("\n"))]
    Obstacles(Vec<String>),
    /// What it declares could not be put in force.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// Which configuration is in force.
#[derive(Debug, Clone)]
pub struct ConfigStatus {
    /// Its file.
    pub file: PathBuf,
    /// What is laid over it, if something is.
    pub overlay: Option<PathBuf>,
    /// The sha256 of both texts.
    pub digest: Digest,
    /// Since when.
    pub since: Timestamp,
    /// What the file holds now, if that cannot be taken.
    pub refused: Option<RefusedConfig>,
}

/// A configuration that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedConfig {
    /// When it was last tried.
    pub at: Timestamp,
    /// Everything that is wrong with it.
    pub why: String,
}

/// The status as readers see it.
pub(super) struct ConfigBoard(ArcSwap<ConfigStatus>);

impl ConfigBoard {
    pub(super) fn new(config: &Config) -> Self {
        Self(ArcSwap::from_pointee(in_force(config)))
    }
}

fn in_force(config: &Config) -> ConfigStatus {
    let (file, overlay) = (config.file.clone(), config.overlay.clone());
    ConfigStatus { file, overlay, digest: config.digest, since: Timestamp::now(), refused: None }
}

impl Gateway {
    /// Which configuration is in force, and what stands against the file as it is now.
    pub fn config_status(&self) -> ConfigStatus {
        ConfigStatus::clone(&self.inner().config_status.0.load())
    }

    /// Says that the file holds a configuration that cannot be taken.
    pub fn config_refused(&self, why: &str) {
        let board = &self.inner().config_status.0;
        let known = board.load().refused.as_ref().is_some_and(|refused| refused.why == why);
        let refused = Some(RefusedConfig { at: Timestamp::now(), why: why.to_owned() });
        board.rcu(|status| ConfigStatus { refused: refused.clone(), ..ConfigStatus::clone(status) });
        let news = if known { ConfigNews::Known } else { ConfigNews::Another };
        self.metrics().config_refused(news);
        // it is tried again and again; once is enough to say
        if news == ConfigNews::Another {
            tracing::error!(%why, "the configuration was refused; nothing has changed");
        }
    }

    /// What a configuration would do.
    pub async fn plan(&self, new: &Config) -> ConfigPlan {
        let now = self.inner().config.lock().await;
        self.plan_from(&now, new).await
    }

    /// Takes another configuration: its versions can be asked for, its flags and policies count, when this returns. Versions
    /// that are new are then loaded, and those that have left finish what they have.
    pub async fn reload(&self, new: Config) -> Result<ConfigPlan, ReloadError> {
        let mut now = self.inner().config.lock().await;
        let differences = differences(&now, &new);
        if !differences.is_empty() {
            let plan = self.plan_from(&now, &new).await;
            let prompts = differences.iter().filter_map(|difference| prompt_fault(&new, difference));
            let obstacles: Vec<String> = plan.obstacles.iter().cloned().chain(prompts).collect();
            if !obstacles.is_empty() {
                return Err(ReloadError::Obstacles(obstacles));
            }
            // what is taken back comes first: a version that leaves with it has no traffic then
            self.take_back(&new).await.map_err(|why| ReloadError::Obstacles(vec![why]))?;
            let by = Change { actor: ACTOR.to_owned(), reason: reason(&new) };
            self.inner().releases.redeclare(declared(&new), news(&differences), by.clone()).await?;
            self.inner().residency.declare(blueprints(&new));
            self.inner().settings.swap(&new);
            for difference in &differences {
                self.settle(difference, &new, &by);
            }
            for change in &plan.changes {
                tracing::info!(%change, "the configuration has changed");
            }
            self.put_in_force(&mut now, new);
            return Ok(plan);
        }
        self.put_in_force(&mut now, new);
        Ok(ConfigPlan::default())
    }

    fn put_in_force(&self, now: &mut Config, new: Config) {
        let news = if now.digest == new.digest { ConfigNews::Known } else { ConfigNews::Another };
        let board = &self.inner().config_status.0;
        match news {
            ConfigNews::Another => board.store(in_force(&new).into()),
            ConfigNews::Known => {
                drop(board.rcu(|now| ConfigStatus { refused: None, ..ConfigStatus::clone(now) }));
            }
        }
        self.metrics().config_applied(news);
        *now = new;
        self.inner().wishes.wake();
    }

    async fn plan_from(&self, now: &Config, new: &Config) -> ConfigPlan {
        let mut plan = ConfigPlan::default();
        for difference in differences(now, new) {
            plan.obstacles.extend(self.obstacle(&difference, new).await);
            plan.changes.push(match &difference {
                Difference::Wanted { model, to: Some(to), .. } => {
                    let what = self.what_follows(new, model, to).await;
                    format!("{difference}: {what}")
                }
                difference => difference.to_string(),
            });
        }
        plan
    }

    /// What stands against a difference now.
    async fn obstacle(&self, difference: &Difference, new: &Config) -> Option<String> {
        let inner = self.inner();
        match difference {
            Difference::Fixed { .. } => {
                Some(format!("{difference}; restart the server, or put back what was there"))
            }
            Difference::Redefined { version, .. } => {
                let table = inner.residency.table();
                let state = table
                    .get(version)
                    .filter(|state| !matches!(state, State::Cold | State::Failed { .. }))?;
                let fix = "a version never changes; declare what is new under a name of its own";
                Some(format!("{difference}, and it is {}: {fix}", state.name()))
            }
            Difference::Removed { version } => {
                if let Err(error) = inner.releases.can_leave(version)
                    && !self.takes_back(new, &version.model).await
                {
                    return Some(format!("{version} cannot leave the configuration: {error}"));
                }
                let table = inner.residency.table();
                let is_loading = matches!(table.get(version), Some(State::Loading(_)));
                is_loading
                    .then(|| format!("{version} cannot leave the configuration while it is being loaded"))
            }
            _ => None,
        }
    }

    /// Sees to it that a version gets to where a difference wants it. Nobody waits for that.
    fn settle(&self, difference: &Difference, new: &Config, by: &Change) {
        match difference {
            Difference::Added { version, residency } => self.bring(version, *residency, by),
            Difference::Moved { version, to } => self.bring(version, *to, by),
            Difference::Redefined { version, .. } => {
                let of = |model: &ModelConfig| Some(model.versions.get(&version.version)?.residency);
                if let Some(residency) = new.models.get(&version.model).and_then(of) {
                    self.bring(version, residency, by);
                }
            }
            Difference::Removed { version } => {
                let withdrawn = self.inner().residency.withdraw(version, UnloadTo::Cold);
                let (this, version) = (self.clone(), version.clone());
                match withdrawn {
                    Ok(Some(backend)) => drop(tokio::spawn(async move {
                        let deadline = this.inner().drain_deadline;
                        this.inner().residency.drain(backend, deadline, UnloadTo::Cold).await;
                        tracing::info!(%version, "version has left");
                    })),
                    // it was at rest, and is gone by now
                    Ok(None) | Err(ResidencyError::Unknown(_)) => {}
                    Err(error) => {
                        tracing::warn!(%version, %error, "a version that leaves stays in memory until it is at rest");
                    }
                }
            }
            _ => {}
        }
    }

    fn bring(&self, version: &VersionRef, to: Where, by: &Change) {
        let (this, version, by) = (self.clone(), version.clone(), by.clone());
        let load = match to {
            Where::Hot => Some(LoadTo::Hot),
            Where::Warm => Some(LoadTo::Warm),
            Where::Cold => None,
        };
        // before it is loaded, a rollout of it has to wait: it has not died
        if load == Some(LoadTo::Hot) {
            self.inner().residency.await_first_load(&version);
        }
        tokio::spawn(async move {
            if let Some(load) = load {
                this.inner().residency.first_load(&version, load).await;
            } else if this.inner().residency.hot(&version).is_some()
                && let Err(error) = this.unload(&version, UnloadTo::Cold, by).await
            {
                tracing::warn!(%version, %error, "the configuration wants it cold, and it stays");
            }
            this.inner().wishes.wake();
        });
    }
}

/// What is wrong with the prompt of a version that is to be loaded. A plan does not ask: prompts come with their file.
fn prompt_fault(new: &Config, difference: &Difference) -> Option<String> {
    let (Difference::Added { version, .. } | Difference::Redefined { version, .. }) = difference else {
        return None;
    };
    let prompt = new.models.get(&version.model)?.versions.get(&version.version)?.prompt.as_ref()?;
    let fault = Prompt::read(&prompt.file, prompt.digest).err()?;
    Some(format!("{version}: prompt: {fault}"))
}

/// What the audit log is told of each model; of a wish it is told when that is followed.
fn news(differences: &[Difference]) -> BTreeMap<ModelName, String> {
    let mut news: BTreeMap<ModelName, Vec<String>> = BTreeMap::new();
    for difference in differences {
        let model = match difference {
            Difference::Added { version, .. }
            | Difference::Removed { version }
            | Difference::Redefined { version, .. }
            | Difference::Retuned { version, .. }
            | Difference::Moved { version, .. } => &version.model,
            Difference::Setting { model: Some(model), .. } => model,
            Difference::Wanted { .. }
            | Difference::Setting { model: None, .. }
            | Difference::FirstRoute { .. }
            | Difference::Fixed { .. } => continue,
        };
        news.entry(model.clone()).or_default().push(difference.to_string());
    }
    news.into_iter().map(|(model, lines)| (model, lines.join("; "))).collect()
}

/// Why something changes: `switchback.yaml (sha256:0123abcd4567)`.
pub(super) fn reason(config: &Config) -> String {
    told(&config.file, config.digest)
}

/// A configuration by the name of its file and its digest.
pub(super) fn told(file: &Path, digest: Digest) -> String {
    let name = file.file_name().map_or_else(|| file.to_string_lossy(), std::ffi::OsStr::to_string_lossy);
    format!("{name} ({})", digest.short())
}
