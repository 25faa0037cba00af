//! From the name that a client gives to the version that answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::backend::Backend;
use super::command::{Address, Target};
use super::{Gateway, GatewayError};
use crate::ids::{VersionName, VersionRef, Weight};
use crate::release::{Canned, ChosenBy, Destination};

/// Who answers a request, and what chose him.
pub(super) struct Chosen {
    pub(super) backend: Arc<Backend>,
    /// Nothing did, where it stands in for a version that could not answer.
    pub(super) by: Option<ChosenBy>,
}

/// Who answers a conversation, or goes on with a text.
pub(super) enum Answerer {
    /// A version.
    Version(Chosen),
    /// A flag, by its text.
    Flag(Canned),
}

impl Gateway {
    /// The backend for a request that only a version can answer.
    pub(super) fn resolve(&self, address: &Address) -> Result<Chosen, GatewayError> {
        match self.answerer(address)? {
            Answerer::Version(chosen) => Ok(chosen),
            Answerer::Flag(_) => Err(GatewayError::NotEnabled { what: address.target.model().to_string() }),
        }
    }

    /// Who answers a request. Reads two atomic snapshots, that of routes and flags and the residency's; takes no
    /// lock.
    ///
    /// A pinned version answers or nobody does. On a route whose chosen version is not hot, the hot version with the
    /// greatest weight that flags leave open answers in its place: no request is lost to versioning. The answer names who
    /// gave it.
    pub(super) fn answerer(&self, address: &Address) -> Result<Answerer, GatewayError> {
        let inner = self.inner();
        let Address { target, sticky, traits } = address;
        match target {
            Target::Pinned(version) => {
                let settings = inner.settings.load();
                let model = settings.config.models.get(&version.model);
                let model = model.ok_or_else(|| GatewayError::unknown_model(version.model.as_str()))?;
                if !model.versions.contains_key(&version.version) {
                    return Err(GatewayError::UnknownVersion { version: version.clone() });
                }
                if !inner.routes.admits_named(&version.model, &version.version, sticky, traits) {
                    return Err(GatewayError::NotEnabled { what: version.to_string() });
                }
                let backend = inner.residency.hot(version);
                let backend = backend.ok_or_else(|| GatewayError::NotReady { what: version.to_string() })?;
                Ok(Answerer::Version(Chosen { backend, by: Some(ChosenBy::Route) }))
            }
            Target::Routed(model) => {
                let resolution = inner.routes.resolve(model, sticky, traits);
                let resolution = resolution.ok_or_else(|| GatewayError::unknown_model(model.as_str()))?;
                let (version, by) = match resolution.to {
                    Destination::Version(version, by) => (version, by),
                    Destination::Canned(canned) => return Ok(Answerer::Flag(canned)),
                    Destination::Nobody => {
                        return Err(GatewayError::NotEnabled { what: model.to_string() });
                    }
                };
                let chosen = VersionRef { model: model.clone(), version };
                if let Some(backend) = inner.residency.hot(&chosen) {
                    return Ok(Answerer::Version(Chosen { backend, by: Some(by) }));
                }
                let hot = |name: &VersionName| {
                    let open = inner.routes.admits(model, name, sticky, traits)
                        && inner.routes.admits_named(model, name, sticky, traits);
                    let hot =
                        || inner.residency.hot(&VersionRef { model: model.clone(), version: name.clone() });
                    open.then(hot).flatten()
                };
                let backend =
                    stand_in(&self.weights(model), hot).ok_or_else(|| GatewayError::no_version(model))?;
                tracing::debug!(wanted = %chosen, answers = %backend.version(), "the chosen version is not hot");
                inner.metrics.fell_back(&chosen);
                Ok(Answerer::Version(Chosen { backend, by: None }))
            }
        }
    }
}

/// The hot version with the greatest weight; the first by name among equals.
fn stand_in<T>(
    weights: &BTreeMap<VersionName, Weight>,
    hot: impl Fn(&VersionName) -> Option<T>,
) -> Option<T> {
    let mut by_weight: Vec<_> = weights.iter().filter(|(_, weight)| **weight > Weight::ZERO).collect();
    by_weight.sort_by_key(|(_, weight)| std::cmp::Reverse(**weight));
    by_weight.into_iter().find_map(|(name, _)| hot(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand_in_among(weights: &[(&str, f64)], hot: &[&str]) -> Option<String> {
        let weights =
            weights.iter().map(|(n, w)| (n.parse().unwrap(), Weight::from_percent(*w).unwrap())).collect();
        stand_in(&weights, |name| hot.contains(&name.as_str()).then(|| name.to_string()))
    }

    #[test]
    fn the_heaviest_hot_version_stands_in() {
        let weights = [("v1", 20.0), ("v2", 70.0), ("v3", 10.0)];
        assert_eq!(stand_in_among(&weights, &["v1", "v3"]).as_deref(), Some("v1"));
        assert_eq!(stand_in_among(&weights, &["v1", "v2", "v3"]).as_deref(), Some("v2"));
    }

    #[test]
    fn a_version_without_weight_never_stands_in() {
        assert_eq!(stand_in_among(&[("v1", 100.0), ("v2", 0.0)], &["v2"]), None);
    }
}
