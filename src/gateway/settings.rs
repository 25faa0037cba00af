//! What a reload may swap, as requests read it: models and policies.
//!
//! Requests read one immutable snapshot; a reload puts another in its place.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::config::{Config, ModelConfig, Policy};
use crate::ids::ModelName;

/// Models and policies of the configuration that is in force.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) models: BTreeMap<ModelName, ModelConfig>,
    /// Policies beside the ready-made ones.
    pub(super) policies: BTreeMap<String, Policy>,
}

impl Settings {
    fn of(config: &Config) -> Self {
        Self { models: config.models.clone(), policies: config.policies.clone() }
    }
}

/// The settings of the moment. Reading them takes no lock.
pub(super) struct InForce(ArcSwap<Settings>);

impl InForce {
    pub(super) fn new(config: &Config) -> Self {
        Self(ArcSwap::from_pointee(Settings::of(config)))
    }

    pub(super) fn load(&self) -> Guard<Arc<Settings>> {
        self.0.load()
    }

    /// For who goes on for long: a guard is for who is soon done.
    pub(super) fn load_full(&self) -> Arc<Settings> {
        self.0.load_full()
    }

    pub(super) fn swap(&self, config: &Config) {
        self.0.store(Arc::new(Settings::of(config)));
    }
}
