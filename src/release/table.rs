//! The routes as requests read them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

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
}

impl RouteTable {
    /// A model's route.
    pub fn get(&self, model: &ModelName) -> Option<&Route> {
        self.0.get(model).map(|entry| &*entry.route)
    }

    pub(super) fn with(&self, model: &ModelName, route: Route) -> Self {
        let mut next = self.clone();
        next.0.insert(model.clone(), Entry { seed: seed_of(model), route: Arc::new(route) });
        next
    }
}

/// What a key resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The version that answers.
    pub version: VersionName,
    /// The route's revision that said so.
    pub revision: u64,
}

/// The shared, swappable table. Cloning it clones a pointer; reading it takes no lock.
#[derive(Debug, Clone, Default)]
pub struct Routes(Arc<ArcSwap<RouteTable>>);

impl Routes {
    /// The version that a key's requests for a model go to; `None` for a model without a route.
    pub fn resolve(&self, model: &ModelName, key: &StickyKey) -> Option<Resolution> {
        let table = self.0.load();
        let entry = table.0.get(model)?;
        let version = entry.route.owner(bucket_with_seed(key, entry.seed)).clone();
        Some(Resolution { version, revision: entry.route.revision() })
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
