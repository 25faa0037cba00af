//! The routes as requests read them, and the flags over them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::flag::{Canned, Choice, ChosenBy, DecidedBy, Evaluation, Flags, Traits};
use super::route::Route;
use super::sticky::{StickyKey, bucket_with_seed, seed_of};
use crate::ids::{ModelName, VersionName};

/// All routes at one moment.
#[derive(Debug, Clone, Default)]
pub struct RouteTable(HashMap<ModelName, Entry>);

#[derive(Debug, Clone)]
struct Entry {
    seed: u64,
    route: Arc<Route>,
    flags: Arc<Flags>,
}

impl RouteTable {
    /// A model's route.
    pub fn get(&self, model: &ModelName) -> Option<&Route> {
        self.0.get(model).map(|entry| &*entry.route)
    }

    /// A model's flags.
    pub(super) fn flags(&self, model: &ModelName) -> Option<&Flags> {
        self.0.get(model).map(|entry| &*entry.flags)
    }

    /// The same with another route of a model; its flags stay.
    pub(super) fn with(&self, model: &ModelName, route: Route) -> Self {
        let mut next = self.clone();
        let flags = self.0.get(model).map(|entry| Arc::clone(&entry.flags)).unwrap_or_default();
        next.0.insert(model.clone(), Entry { seed: seed_of(model), route: Arc::new(route), flags });
        next
    }

    /// The same with other flags of a model that has a route.
    pub(super) fn with_flags(&self, model: &ModelName, flags: Flags) -> Self {
        let mut next = self.clone();
        if let Some(entry) = next.0.get_mut(model) {
            entry.flags = Arc::new(flags);
        }
        next
    }
}

/// What a key resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// Who answers.
    pub to: Destination,
    /// The route's revision that said so.
    pub revision: u64,
}

/// Who answers a key's requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A version, which the route, or a flag over it, has chosen.
    Version(VersionName, ChosenBy),
    /// A flag, by a text.
    Canned(Canned),
    /// Nobody: a flag refuses the key.
    Nobody,
}

impl Resolution {
    /// The version that answers, if one does.
    pub fn version(&self) -> Option<&VersionName> {
        match &self.to {
            Destination::Version(version, _) => Some(version),
            Destination::Canned(_) | Destination::Nobody => None,
        }
    }
}

/// The shared, swappable table. Cloning it clones a pointer; reading it takes no lock.
#[derive(Debug, Clone, Default)]
pub struct Routes(Arc<ArcSwap<RouteTable>>);

impl Routes {
    /// What a key's requests for a model come to; `None` for a model without a route.
    pub fn resolve(&self, model: &ModelName, key: &StickyKey, traits: &Traits) -> Option<Resolution> {
        let table = self.0.load();
        let Entry { seed, route, flags } = table.0.get(model)?;
        let to = match flags.choose(route, bucket_with_seed(key, *seed), key, traits) {
            Choice::Version(version, by) => Destination::Version(version.clone(), by),
            Choice::Canned(canned) => Destination::Canned(canned),
            Choice::Refused => Destination::Nobody,
        };
        Some(Resolution { to, revision: route.revision() })
    }

    /// Whether the flag of a version lets a key in.
    pub fn admits(&self, model: &ModelName, version: &VersionName, key: &StickyKey, traits: &Traits) -> bool {
        let table = self.0.load();
        table.0.get(model).is_none_or(|entry| entry.flags.admits(version, key, traits))
    }

    /// Whether a key may name a version: the model is open to it, and the version is switched on.
    pub fn admits_named(
        &self,
        model: &ModelName,
        version: &VersionName,
        key: &StickyKey,
        traits: &Traits,
    ) -> bool {
        let table = self.0.load();
        table.0.get(model).is_none_or(|entry| entry.flags.admits_named(version, key, traits))
    }

    /// What the flag of a model (`None`) or of a version says of a key; nothing of a model without a route.
    pub fn evaluate(
        &self,
        model: &ModelName,
        of: Option<&VersionName>,
        key: &StickyKey,
        traits: &Traits,
    ) -> Option<Evaluation> {
        let table = self.0.load();
        table.0.get(model).map(|entry| entry.flags.evaluate(of, key, traits))
    }

    /// The version of a key's requests, as [`Routes::resolve`] finds it, and what decided that: the first flag that did not let
    /// the key in, else the shares of the route, else a flag that did. Nothing of a model without a route.
    pub fn explain(
        &self,
        model: &ModelName,
        key: &StickyKey,
        traits: &Traits,
    ) -> Option<(Option<VersionName>, Evaluation)> {
        let table = self.0.load();
        let Entry { seed, route, flags } = table.0.get(model)?;
        let bucket = bucket_with_seed(key, *seed);
        let version = flags.choose(route, bucket, key, traits).version().cloned();
        let (of_model, of_version) =
            (flags.evaluate(None, key, traits), flags.evaluate(Some(route.owner(bucket)), key, traits));
        let shares = Evaluation { lets_in: true, decided_by: DecidedBy::Percentage };
        let decided = match (of_model, of_version) {
            (closed, _) | (_, closed) if !closed.lets_in => closed,
            _ if route.weights().len() > 1 => shares,
            (Evaluation { decided_by: DecidedBy::Nothing, .. }, of_version) => of_version,
            (of_model, _) => of_model,
        };
        Some((version, decided))
    }

    /// The headers that a model's flags name.
    pub fn flag_headers(&self, model: &ModelName) -> Arc<[Arc<str>]> {
        let table = self.0.load();
        table.0.get(model).map(|entry| Arc::clone(entry.flags.headers())).unwrap_or_default()
    }

    /// All routes at this moment.
    pub fn snapshot(&self) -> Arc<RouteTable> {
        self.0.load_full()
    }

    /// Only the owner of changes calls this.
    pub(super) fn publish(&self, table: RouteTable) {
        self.0.store(Arc::new(table));
    }
}
