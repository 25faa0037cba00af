//! What operators ask and change: residency, routes, and who changed what.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::identity::Identity;
use super::residency::{LoadTo, UnloadTo};
use super::state::{ResidencyError, State};
use super::{Gateway, StickyKey};
use crate::config::{AdapterRef, ImageRef, PromptRef, UnknownPolicy};
use crate::ids::{Digest, ModelName, Quantize, VersionName, VersionRef, Weight};
use crate::prompt::Prompt;
use crate::release::{AuditAction, AuditEntry, Change, ReleaseError, RouteView, Traits, Withdrawn};

/// Why an operator's wish was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The model is not configured.
    #[error("the model `{0}` is not in the configuration")]
    UnknownModel(ModelName),
    /// No policy of this name.
    #[error(transparent)]
    UnknownPolicy(#[from] UnknownPolicy),
    /// No rollout of the model runs.
    #[error("no rollout of `{0}` runs; start one with `switchback rollout start`")]
    NoRollout(ModelName),
    /// Answers of the model are not checked, and only those that are checked are measured.
    #[error(
        "`{0}` has no checks, so nothing of its answers is measured; give it some, such as `checks: [refusal]`"
    )]
    NothingToCompare(ModelName),
    /// No answer of this id is kept.
    #[error("no such answer is kept: {why}")]
    NoAnswer {
        /// Why, as far as that is known.
        why: &'static str,
    },
    /// The route was not changed.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The version was not loaded or unloaded.
    #[error(transparent)]
    Residency(#[from] ResidencyError),
}

/// A model as operators see it.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// The model.
    pub model: ModelName,
    /// Its versions by name.
    pub versions: Vec<VersionStatus>,
    /// The revision of its route.
    pub revision: u64,
}

/// A version as operators see it.
#[derive(Debug, Clone)]
pub struct VersionStatus {
    /// The version.
    pub version: VersionRef,
    /// Where its image comes from.
    pub image: ImageRef,
    /// The digest of its image: as loaded, else as configured.
    pub digest: Option<Digest>,
    /// What becomes of its weights when they are loaded.
    pub quantize: Quantize,
    /// The adapter that its requests go through, if it has one.
    pub adapter: Option<AdapterStatus>,
    /// The version that guesses its tokens, if one does.
    pub draft: Option<VersionRef>,
    /// The prompt around its conversations, if it has one.
    pub prompt: Option<PromptStatus>,
    /// Where it is.
    pub state: State,
    /// Its share of the model's traffic.
    pub weight: Weight,
}

/// A version's adapter as operators see it.
#[derive(Debug, Clone)]
pub struct AdapterStatus {
    /// Where its files come from.
    pub image: ImageRef,
    /// Their digest: as loaded, else as configured.
    pub digest: Option<Digest>,
}

/// A version's prompt as operators see it.
#[derive(Debug, Clone)]
pub struct PromptStatus {
    /// Its file.
    pub file: PathBuf,
    /// The file's digest: as loaded, else as configured.
    pub digest: Option<Digest>,
}

/// A version after it was unloaded.
#[derive(Debug, Clone)]
pub struct Unloaded {
    /// The version.
    pub status: VersionStatus,
    /// Requests that were not finished at the drain deadline.
    pub cut_off: usize,
    /// What can no longer be done at once, and what would do: a rollback needs its version hot.
    pub warning: Option<String>,
}

impl VersionStatus {
    /// The most tokens of prompt and answer, if it is loaded.
    pub fn max_context(&self) -> Option<usize> {
        self.state.backend().map(|backend| backend.max_context())
    }

    /// The digest of all that decides its answers, where those of its parts are known.
    pub fn version_digest(&self) -> Option<Digest> {
        let prompt = match &self.prompt {
            None => None,
            Some(prompt) => Some(prompt.digest?),
        };
        let adapter = match &self.adapter {
            None => None,
            Some(adapter) => Some(adapter.digest?),
        };
        Some(Identity { image: self.digest?, quantize: self.quantize, adapter, prompt }.digest())
    }
}

impl Gateway {
    /// All models.
    pub fn models(&self) -> Vec<ModelStatus> {
        self.inner().settings.load().config.models.keys().filter_map(|model| self.model(model)).collect()
    }

    /// One model.
    pub fn model(&self, model: &ModelName) -> Option<ModelStatus> {
        let settings = self.inner().settings.load();
        let config = settings.config.models.get(model)?;
        let (table, weights) = (self.inner().residency.table(), self.weights(model));
        let versions = config.versions.iter().map(|(name, settings)| {
            let version = VersionRef { model: model.clone(), version: name.clone() };
            let state = table.get(&version).cloned().unwrap_or(State::Cold);
            let loaded = state.prepared().and_then(|prepared| prepared.prompt.as_ref()).map(Prompt::digest);
            let status = |p: &PromptRef| PromptStatus { file: p.file.clone(), digest: loaded.or(p.digest) };
            let adapter = state.prepared().and_then(|prepared| prepared.adapter);
            let adapter_status =
                |a: &AdapterRef| AdapterStatus { image: a.image.clone(), digest: adapter.or(a.digest) };
            VersionStatus {
                adapter: settings.adapter.as_ref().map(adapter_status),
                draft: settings.draft.as_ref().map(|draft| draft.version.clone()),
                prompt: settings.prompt.as_ref().map(status),
                image: settings.image.clone(),
                quantize: settings.quantize,
                digest: state.prepared().map(|prepared| prepared.digest).or(settings.digest),
                weight: weights.get(name).copied().unwrap_or(Weight::ZERO),
                state,
                version,
            }
        });
        let revision = self.inner().routes.snapshot().get(model).map_or(0, crate::release::Route::revision);
        Some(ModelStatus { model: model.clone(), versions: versions.collect(), revision })
    }

    /// One version.
    pub fn version(&self, version: &VersionRef) -> Option<VersionStatus> {
        self.model(&version.model)?.versions.into_iter().find(|status| status.version == *version)
    }

    /// The version that a sticky key has on a model's route, where flags know nothing of the request but the key.
    pub fn version_of(&self, model: &ModelName, key: &StickyKey) -> Option<VersionName> {
        self.inner().routes.resolve(model, key, &Traits::default())?.version().cloned()
    }

    /// A model's route.
    pub fn route(&self, model: &ModelName) -> Result<RouteView, AdminError> {
        Ok(self.inner().releases.current(model)?)
    }

    /// Sets a model's weights: durable, and in force for the next request, when this returns.
    pub async fn set_weights(
        &self,
        model: &ModelName,
        weights: BTreeMap<VersionName, Weight>,
        change: Change,
    ) -> Result<RouteView, AdminError> {
        Ok(self.inner().releases.set_weights(model.clone(), weights, change).await?)
    }

    /// Goes back to the last stable route. Waits for no load and for no drain.
    pub async fn rollback(&self, model: &ModelName, change: Change) -> Result<RouteView, AdminError> {
        Ok(self.inner().releases.rollback(model.clone(), change).await?)
    }

    /// Loads a version and returns when it is there. Goes on, and is written down, if the caller leaves.
    pub async fn load(
        &self,
        version: &VersionRef,
        to: LoadTo,
        change: Change,
    ) -> Result<VersionStatus, AdminError> {
        let (this, version) = (self.clone(), version.clone());
        finished(tokio::spawn(async move {
            let result = this.inner().residency.load(&version, to).await;
            let (action, detail) = match &result {
                Ok(()) => {
                    (AuditAction::Load, (to == LoadTo::Warm).then(|| format!("{}, to warm", version.version)))
                }
                Err(error) => (AuditAction::LoadFailed, Some(error.to_string())),
            };
            this.inner().releases.record(version.clone(), action, detail, change).await?;
            result?;
            this.status(&version)
        }))
        .await
    }

    /// Withdraws a version without weight, lets it finish what it has, and frees it. Goes on if the caller leaves.
    pub async fn unload(
        &self,
        version: &VersionRef,
        to: UnloadTo,
        change: Change,
    ) -> Result<Unloaded, AdminError> {
        let (this, version) = (self.clone(), version.clone());
        finished(tokio::spawn(async move { this.finish_unload(version, to, change).await })).await
    }

    async fn finish_unload(
        &self,
        version: VersionRef,
        to: UnloadTo,
        change: Change,
    ) -> Result<Unloaded, AdminError> {
        let inner = self.inner();
        let (tell, told) = oneshot::channel();
        let (residency, leaving) = (inner.residency.clone(), version.clone());
        let withdraw = move || {
            let result = residency.withdraw(&leaving, to);
            let withdrawn = match (&result, to) {
                (Err(_), _) => Withdrawn::No,
                (Ok(_), UnloadTo::Cold) => Withdrawn::ToCold,
                (Ok(_), UnloadTo::Warm) => Withdrawn::ToWarm,
            };
            // The receiver waits just below.
            let _ = tell.send(result);
            withdrawn
        };
        inner.releases.withdraw(version.clone(), change.clone(), withdraw).await?;
        let backend = told.await.map_err(|_| ReleaseError::Stopping)??;
        let mut cut_off = 0;
        if let Some(backend) = backend {
            cut_off = inner.residency.drain(backend, inner.drain_deadline, to).await.cut_off();
        }
        if cut_off > 0 {
            let detail = format!("{}: {cut_off} requests", version.version);
            inner.releases.record(version.clone(), AuditAction::CutOff, Some(detail), change).await?;
        }
        let status = self.status(&version)?;
        let warning = self.rollback_needs(&version).or_else(|| {
            let stays = to == UnloadTo::Cold || matches!(status.state, State::Warm(_));
            (!stays).then(|| format!("{version} is {} and not warm; the log says why", status.state.name()))
        });
        Ok(Unloaded { status, cut_off, warning })
    }

    /// What stands against a rollback now that a version is not hot, if it would go there.
    fn rollback_needs(&self, version: &VersionRef) -> Option<String> {
        let routes = self.inner().routes.snapshot();
        let target = routes.get(&version.model)?.rollback_target()?;
        (target.version == version.version).then(|| {
            format!(
                "a rollback of {} would go to {version}, which is not hot now: it is refused until `switchback load {version}`",
                version.model
            )
        })
    }

    fn status(&self, version: &VersionRef) -> Result<VersionStatus, AdminError> {
        self.version(version).ok_or_else(|| AdminError::UnknownModel(version.model.clone()))
    }

    /// The newest changes first; of one model or of all.
    pub async fn audit(&self, limit: u32, model: Option<ModelName>) -> Result<Vec<AuditEntry>, AdminError> {
        Ok(self.inner().releases.audit(limit, model).await?)
    }
}

/// What a task of an operator's came to. It was spawned only so that it outlives its caller.
async fn finished<T>(task: JoinHandle<Result<T, AdminError>>) -> Result<T, AdminError> {
    // A task that was not finished means that the runtime is being taken down.
    task.await.unwrap_or_else(|_| Err(ReleaseError::Stopping.into()))
}
