//! Another configuration for a server that runs: what it would do, and doing it.
//!
//! All or nothing: a configuration with a part that cannot be taken now changes nothing. What it says of versions is in
//! force when [`Gateway::reload`] returns; what it wants of traffic is `wishes`' to follow, and where a version leaves that
//! has traffic by now, `release` takes that back first.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Gateway;
use super::residency::{LoadTo, UnloadTo};
use super::settings::ConfigStatus;
use super::start::{blueprints, declared};
use super::state::{ResidencyError, State};
use crate::config::{Config, Difference, Residency as Where, differences};
use crate::ids::{Digest, ModelName, VersionRef};
use crate::prompt::Prompt;
use crate::release::{Change, ReleaseError};
use crate::telemetry::ConfigNews;

/// Who changes what the configuration says.
pub(super) const ACTOR: &str = "configuration";

/// How often a version that is on its way elsewhere is asked whether it can be brought where it is to be.
const BUSY: Duration = Duration::from_millis(200);

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

impl Gateway {
    /// Which configuration is in force, and what stands against the file as it is now.
    pub fn config_status(&self) -> ConfigStatus {
        self.inner().settings.status()
    }

    /// Says that the file holds a configuration that cannot be taken.
    pub fn config_refused(&self, why: &str) {
        let news = self.inner().settings.refuse(why);
        self.metrics().config_refused(news);
        // it is tried again and again; once is enough to say
        if news == ConfigNews::Another {
            tracing::error!(%why, "the configuration was refused; nothing has changed");
        }
    }

    /// What a configuration would do.
    pub async fn plan(&self, new: &Config) -> ConfigPlan {
        let now = self.inner().settings.load_full();
        self.plan_from(&differences(&now.config, new), new).await
    }

    /// Takes another configuration: its versions can be asked for, its flags and policies count, when this returns. Versions
    /// that are new are then loaded, and those that have left finish what they have.
    pub async fn reload(&self, new: Config) -> Result<ConfigPlan, ReloadError> {
        let inner = self.inner();
        let prompts = self.prompt_faults(&new).await;
        let _turn = inner.settings.turn().await;
        if self.is_stopping() {
            return Err(ReloadError::Obstacles(vec!["the server is stopping".to_owned()]));
        }
        let now = inner.settings.load_full();
        let differences = differences(&now.config, &new);
        let plan = self.plan_from(&differences, &new).await;
        let obstacles: Vec<String> = plan.obstacles.iter().cloned().chain(prompts).collect();
        if !obstacles.is_empty() {
            return Err(ReloadError::Obstacles(obstacles));
        }
        if differences.is_empty() {
            self.put_in_force(new);
            return Ok(plan);
        }
        let by = Change { actor: ACTOR.to_owned(), reason: told(&new.file, new.digest) };
        match inner.releases.redeclare(declared(&new), news(&differences), by.clone()).await {
            Ok(()) => {}
            Err(ReleaseError::NotHot { version }) => {
                let obstacle = self.awaits(&version, &now.config, &new);
                return Err(ReloadError::Obstacles(vec![obstacle]));
            }
            Err(error) => return Err(error.into()),
        }
        inner.residency.declare(blueprints(&new));
        for difference in &differences {
            if let Difference::Wanted { model, .. } = difference {
                inner.wishes.turned(model);
            }
        }
        self.put_in_force(new.clone());
        self.forget();
        for difference in &differences {
            self.settle(difference, &new, &by);
        }
        for change in &plan.changes {
            tracing::info!(%change, "the configuration has changed");
        }
        inner.wishes.wake();
        Ok(plan)
    }

    /// What is wrong with the prompts of versions that are to be loaded. They are tried out, which may take long.
    async fn prompt_faults(&self, new: &Config) -> Vec<String> {
        let now = self.inner().settings.load_full();
        let (differences, new) = (differences(&now.config, new), new.clone());
        let faults = tokio::task::spawn_blocking(move || {
            differences.iter().filter_map(|difference| prompt_fault(&new, difference)).collect()
        });
        faults.await.unwrap_or_else(|error| vec![format!("the prompts could not be read: {error}")])
    }

    fn put_in_force(&self, new: Config) {
        let news = self.inner().settings.swap(new);
        self.metrics().config_applied(news);
    }

    /// A version has to be hot before another leaves. It is loaded, unless that would load what it no longer is to be.
    fn awaits(&self, version: &VersionRef, now: &Config, new: &Config) -> String {
        let of = |config: &Config| config.models.get(&version.model)?.versions.get(&version.version).cloned();
        let is_same = of(now).zip(of(new)).is_some_and(|(now, new)| now.is_as(&new));
        if is_same {
            format!("{}; the rest waits for it", self.load_for_wish(version))
        } else {
            format!(
                "{version} is not hot, and is to be another: change it and take back its traffic in two steps"
            )
        }
    }

    async fn plan_from(&self, differences: &[Difference], new: &Config) -> ConfigPlan {
        let mut plan = ConfigPlan::default();
        for difference in differences {
            plan.obstacles.extend(self.obstacle(difference, new).await);
            plan.changes.push(match difference {
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
                let fix = "a version never changes; declare what is new under a name of its own";
                let table = inner.residency.table();
                let state = table.get(version);
                match state.filter(|state| !matches!(state, State::Cold | State::Failed { .. })) {
                    Some(state) => Some(format!("{difference}, and it is {}: {fix}", state.name())),
                    None if inner.releases.leads_back_to(version) => {
                        Some(format!("{difference}, and a rollback may go to it: {fix}"))
                    }
                    None => None,
                }
            }
            Difference::Removed { version } => {
                let needed = inner.releases.can_leave(version).err()?;
                let is_taken_back = self.takes_back(new, &version.model).await;
                (!is_taken_back).then(|| format!("{version} cannot leave the configuration: {needed}"))
            }
            Difference::Moved { version, to: to @ (Where::Warm | Where::Cold) } => {
                let needed = inner.releases.can_leave(version).err()?;
                Some(format!("{version} cannot become {}: {needed}", to.as_str()))
            }
            _ => None,
        }
    }

    /// Sees to it that a version gets to where a difference wants it. Nobody waits for that.
    fn settle(&self, difference: &Difference, new: &Config, by: &Change) {
        match difference {
            Difference::Added { version, .. }
            | Difference::Moved { version, .. }
            | Difference::Redefined { version, .. } => {
                self.inner().wishes.forget_failure(version);
                if let Some(to) = residency_of(new, version) {
                    self.bring(version, to, by);
                }
            }
            Difference::Removed { version } => {
                self.inner().wishes.forget_failure(version);
                match self.inner().residency.withdraw(version, UnloadTo::Cold) {
                    Ok(Some(backend)) => {
                        let (this, version) = (self.clone(), version.clone());
                        tokio::spawn(async move {
                            let deadline = this.inner().drain_deadline;
                            let outcome =
                                this.inner().residency.drain(backend, deadline, UnloadTo::Cold).await;
                            tracing::info!(%version, ?outcome, "version has left");
                        });
                    }
                    // it was at rest, and is gone by now; what is on its way is dropped when it comes to an end
                    Ok(None) | Err(ResidencyError::Unknown(_) | ResidencyError::Busy { .. }) => {}
                    Err(error) => tracing::warn!(%version, %error, "a version that has left stays in memory"),
                }
            }
            _ => {}
        }
    }

    fn bring(&self, version: &VersionRef, to: Where, by: &Change) {
        let (this, version, by) = (self.clone(), version.clone(), by.clone());
        // before it is loaded, a rollout of it has to wait: it has not died
        if to == Where::Hot {
            self.inner().residency.await_first_load(&version);
        }
        tokio::spawn(async move {
            while let Err(error) = this.brought(&version, to, &by).await {
                let is_busy = matches!(error, super::AdminError::Residency(ResidencyError::Busy { .. }));
                let is_wanted = residency_of(&this.inner().settings.load().config, &version) == Some(to);
                if !is_busy || !is_wanted || this.is_stopping() {
                    tracing::warn!(%version, to = to.as_str(), %error, "the configuration wants it elsewhere");
                    break;
                }
                tokio::time::sleep(BUSY).await;
            }
            this.inner().residency.first_load_is_over(&version);
            this.inner().wishes.wake();
        });
    }

    async fn brought(&self, version: &VersionRef, to: Where, by: &Change) -> Result<(), super::AdminError> {
        let residency = &self.inner().residency;
        let is_at_rest = || {
            residency
                .table()
                .get(version)
                .is_none_or(|state| matches!(state, State::Cold | State::Failed { .. }))
        };
        match to {
            Where::Hot => Ok(residency.load(version, LoadTo::Hot).await?),
            Where::Warm if residency.hot(version).is_none() => {
                Ok(residency.load(version, LoadTo::Warm).await?)
            }
            Where::Warm => self.unload(version, UnloadTo::Warm, by.clone()).await.map(drop),
            Where::Cold if is_at_rest() => Ok(()),
            Where::Cold => self.unload(version, UnloadTo::Cold, by.clone()).await.map(drop),
        }
    }
}

fn residency_of(config: &Config, version: &VersionRef) -> Option<Where> {
    Some(config.models.get(&version.model)?.versions.get(&version.version)?.residency)
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

/// A configuration by the name of its file and its digest: `switchback.yaml (0123abcd4567)`.
pub(super) fn told(file: &Path, digest: Digest) -> String {
    let name = file.file_name().map_or_else(|| file.to_string_lossy(), std::ffi::OsStr::to_string_lossy);
    format!("{name} ({})", digest.short())
}
