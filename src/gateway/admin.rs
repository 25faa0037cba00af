//! What operators ask and change: residency, routes, and who changed what.

use std::collections::BTreeMap;

use super::residency::{ResidencyError, State};
use super::{Gateway, StickyKey};
use crate::config::ImageRef;
use crate::ids::{Digest, ModelName, VersionName, VersionRef, Weight};
use crate::release::{AuditEntry, Change, ReleaseError, RouteView};

/// Why an operator's wish was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The model is not configured.
    #[error("the model `{0}` is not in the configuration")]
    UnknownModel(ModelName),
    /// The version may not be unloaded: users are on it.
    #[error("`{version}` has {weight} % of its model's traffic; set its weight to 0 first")]
    HasWeight {
        /// The version.
        version: VersionRef,
        /// Its weight.
        weight: Weight,
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
    /// Where it is.
    pub state: State,
    /// Its share of the model's traffic.
    pub weight: Weight,
}

impl VersionStatus {
    /// The most tokens of prompt and answer, if it is loaded.
    pub fn max_context(&self) -> Option<usize> {
        self.state.backend().map(|backend| backend.max_context())
    }
}

impl Gateway {
    /// All models.
    pub fn models(&self) -> Vec<ModelStatus> {
        self.inner().models.keys().filter_map(|model| self.model(model)).collect()
    }

    /// One model.
    pub fn model(&self, model: &ModelName) -> Option<ModelStatus> {
        let config = self.inner().models.get(model)?;
        let (table, weights) = (self.inner().residency.table(), self.weights(model));
        let versions = config.versions.iter().map(|(name, settings)| {
            let version = VersionRef { model: model.clone(), version: name.clone() };
            let state = table.get(&version).cloned().unwrap_or(State::Cold);
            VersionStatus {
                image: settings.image.clone(),
                digest: state.backend().map(|b| b.digest).or(settings.digest),
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

    /// The version that a sticky key has on a model's route.
    pub fn version_of(&self, model: &ModelName, key: &StickyKey) -> Option<VersionName> {
        self.inner().routes.resolve(model, key).map(|chosen| chosen.version)
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
        let _order = self.inner().changes.lock().await;
        Ok(self.inner().releases.set_weights(model.clone(), weights, change).await?)
    }

    /// Goes back to the last stable route. Waits for no load and for no drain.
    pub async fn rollback(&self, model: &ModelName, change: Change) -> Result<RouteView, AdminError> {
        Ok(self.inner().releases.rollback(model.clone(), change).await?)
    }

    /// Loads a version and returns when it is hot.
    pub async fn load(&self, version: &VersionRef, change: Change) -> Result<VersionStatus, AdminError> {
        let result = self.inner().residency.load(version).await;
        let (action, failure) = match &result {
            Ok(_) => ("load", None),
            Err(error) => ("load_failed", Some(error.to_string())),
        };
        self.inner().releases.record(version.clone(), action, failure, change).await?;
        result?;
        self.version(version).ok_or_else(|| AdminError::UnknownModel(version.model.clone()))
    }

    /// Withdraws a version without weight, lets it finish what it has, and frees it.
    pub async fn unload(&self, version: &VersionRef, change: Change) -> Result<VersionStatus, AdminError> {
        let order = self.inner().changes.lock().await;
        let weight = self.weights(&version.model).get(&version.version).copied().unwrap_or(Weight::ZERO);
        if weight > Weight::ZERO {
            return Err(AdminError::HasWeight { version: version.clone(), weight });
        }
        let unloading = self.inner().residency.unload(version, self.inner().drain_deadline);
        // The first poll withdraws the version; from then on `is_ready` refuses it weight, and others may go on.
        let mut unloading = std::pin::pin!(unloading);
        let first = futures::poll!(unloading.as_mut());
        drop(order);
        match first {
            std::task::Poll::Ready(result) => result?,
            std::task::Poll::Pending => unloading.await?,
        };
        self.inner().releases.record(version.clone(), "unload", None, change).await?;
        self.version(version).ok_or_else(|| AdminError::UnknownModel(version.model.clone()))
    }

    /// The newest changes first; of one model or of all.
    pub async fn audit(&self, limit: u32, model: Option<ModelName>) -> Result<Vec<AuditEntry>, AdminError> {
        Ok(self.inner().releases.audit(limit, model).await?)
    }
}
