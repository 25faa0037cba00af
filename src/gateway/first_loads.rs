//! What is loaded when the server comes up, and in which order.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Gateway;
use crate::config::{ModelConfig, Residency as Wanted};
use crate::ids::{ModelName, VersionRef, Weight};
use crate::release::{Releases, Route};

impl Gateway {
    /// Loads what is to be hot, one version after another. A failed load leaves the others serving.
    pub async fn load_initial(&self) {
        let inner = self.inner();
        for (model, config) in &inner.models {
            for version in config.unpinned() {
                tracing::warn!(%model, %version, "unpinned: serves whatever its files hold; add `digest`, and `prompt_digest` if it has a prompt");
            }
        }
        for version in wanted_hot(&inner.models, &inner.releases) {
            inner.residency.first_load(&version).await;
        }
        inner.settled.send_replace(true);
    }
}

/// What is configured hot, what a rollout or an experiment compares, and what the routes give weight: a route that
/// outlived a restart may weigh a version that is configured cold. The heaviest come first.
pub(super) fn wanted_hot(models: &BTreeMap<ModelName, ModelConfig>, releases: &Releases) -> Vec<VersionRef> {
    let routes = releases.routes().snapshot();
    let mut wanted = Vec::new();
    for (model, config) in models {
        let weights = routes.get(model).map(Route::weights);
        for (version, settings) in &config.versions {
            let weight = weights.and_then(|weights| weights.get(version)).copied().unwrap_or(Weight::ZERO);
            let compared = releases.compared(model).is_some_and(|arms| arms.contains(version));
            if weight > Weight::ZERO || compared || settings.residency == Wanted::Hot {
                wanted.push((weight, VersionRef { model: model.clone(), version: version.clone() }));
            }
        }
    }
    wanted.sort_by_key(|(weight, _)| Reverse(*weight));
    wanted.into_iter().map(|(_, version)| version).collect()
}
