//! What is loaded when the server comes up, and in which order.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Gateway;
use super::residency::LoadTo;
use crate::config::{ModelConfig, Residency as Wanted};
use crate::ids::{ModelName, VersionName, VersionRef, Weight};
use crate::release::{Releases, Route};

impl Gateway {
    /// Loads what is to be hot, one version after another; then the server is ready, and what is to be warm follows. A
    /// failed load leaves the others serving.
    pub async fn load_initial(&self) {
        let inner = self.inner();
        let settings = inner.settings.load_full();
        for (model, config) in &settings.config.models {
            for version in config.unpinned() {
                tracing::warn!(%model, %version, "unpinned: serves whatever its files hold; add `digest`, and `prompt_digest` if it has a prompt");
            }
        }
        for version in wanted_hot(&settings.config.models, &inner.releases) {
            inner.residency.first_load(&version, LoadTo::Hot).await;
        }
        inner.settled.send_replace(true);
        for version in wanted_warm(&settings.config.models) {
            // one that a route or a rollout needs is hot by now, and stays so
            inner.residency.first_load(&version, LoadTo::Warm).await;
        }
    }
}

impl Gateway {
    /// Returns when every version that was to be hot at the start is hot or has failed.
    pub async fn settled(&self) {
        // the sender is as old as the gateway
        let _ = self.inner().settled.subscribe().wait_for(|settled| *settled).await;
    }
}

/// What is configured warm.
fn wanted_warm(models: &BTreeMap<ModelName, ModelConfig>) -> Vec<VersionRef> {
    let of = |(model, config): (&ModelName, &ModelConfig)| {
        let warm = config.versions.iter().filter(|(_, settings)| settings.residency == Wanted::Warm);
        let named = |(version, _)| VersionRef { model: model.clone(), version: VersionName::clone(version) };
        warm.map(named).collect::<Vec<_>>()
    };
    models.iter().flat_map(of).collect()
}

/// What is configured hot, what a rollout or an experiment compares, what the routes give weight, and what a rollback
/// would go to: a route that outlived a restart may need a version that is configured cold. The heaviest come first, and
/// behind those with weight what a rollback would need.
pub(super) fn wanted_hot(models: &BTreeMap<ModelName, ModelConfig>, releases: &Releases) -> Vec<VersionRef> {
    let routes = releases.routes().snapshot();
    let mut wanted = Vec::new();
    for (model, config) in models {
        let route = routes.get(model);
        let weights = route.map(Route::weights);
        let target = route.and_then(Route::rollback_target).map(|target| &target.version);
        for (version, settings) in &config.versions {
            let weight = weights.and_then(|weights| weights.get(version)).copied().unwrap_or(Weight::ZERO);
            let compared = releases.compared(model).is_some_and(|arms| arms.contains(version));
            let is_target = target == Some(version);
            if weight > Weight::ZERO || is_target || compared || settings.residency == Wanted::Hot {
                let named = VersionRef { model: model.clone(), version: version.clone() };
                wanted.push(((weight, is_target), named));
            }
        }
    }
    wanted.sort_by_key(|(urgency, _)| Reverse(*urgency));
    wanted.into_iter().map(|(_, version)| version).collect()
}
