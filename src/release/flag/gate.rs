//! The flags of one model, ready to be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::traits::{Traits, Who};
use crate::config::{Cohort, Flag, FlagOf};
use crate::ids::{ModelName, VersionName, Weight};
use crate::release::sticky::{StickyKey, bucket_with_seed, flag_seed};

/// A flag with the seed that its percentage hashes keys with.
#[derive(Debug, Clone)]
struct Gate {
    flag: Flag,
    seed: u64,
}

/// All flags of a model that do not let everybody in.
#[derive(Debug, Clone, Default)]
pub(in crate::release) struct Flags {
    all: BTreeMap<Option<VersionName>, Flag>,
    model: Option<Gate>,
    versions: BTreeMap<VersionName, Gate>,
    headers: Arc<[Arc<str>]>,
}

impl Flags {
    pub(in crate::release) fn new(model: &ModelName, all: BTreeMap<Option<VersionName>, Flag>) -> Self {
        let gate = |version: Option<&VersionName>, flag: &Flag| {
            (!flag.is_open()).then(|| Gate { flag: flag.clone(), seed: flag_seed(model, version) })
        };
        let named = |(version, flag): (&Option<VersionName>, &Flag)| {
            let version = version.as_ref()?;
            Some((version.clone(), gate(Some(version), flag)?))
        };
        let versions: BTreeMap<_, _> = all.iter().filter_map(named).collect();
        let own = all.get(&None).and_then(|flag| gate(None, flag));
        let gates = own.iter().chain(versions.values());
        let headers: BTreeSet<&str> = gates.flat_map(|gate| gate.flag.headers()).collect();
        let headers = headers.into_iter().map(Arc::from).collect();
        Self { model: own, versions, headers, all }
    }

    /// The same with another flag of the model (`None`) or of a version.
    pub(in crate::release) fn with(&self, model: &ModelName, of: Option<VersionName>, flag: Flag) -> Self {
        let mut all = self.all.clone();
        all.insert(of, flag);
        Self::new(model, all)
    }

    /// The flag of the model (`None`) or of a version; an open one where nobody has set it.
    pub(in crate::release) fn get(&self, of: Option<&VersionName>) -> Flag {
        let scope = if of.is_some() { FlagOf::Version } else { FlagOf::Model };
        self.all.get(&of.cloned()).cloned().unwrap_or_else(|| Flag::open(scope))
    }

    /// What the flag of the model (`None`) or of a version says of a key.
    pub(in crate::release) fn evaluate(
        &self,
        of: Option<&VersionName>,
        key: &StickyKey,
        traits: &Traits,
    ) -> Evaluation {
        let gate = of.map_or(self.model.as_ref(), |version| self.versions.get(version));
        let open = Evaluation { lets_in: true, decided_by: DecidedBy::Nothing };
        gate.map_or(open, |gate| gate.evaluate(key, traits))
    }

    /// The headers that must be known to ask.
    pub(in crate::release) fn headers(&self) -> &Arc<[Arc<str>]> {
        &self.headers
    }

    /// The model's flag, where it keeps this key out.
    pub(super) fn closed_model(&self, key: &StickyKey, traits: &Traits) -> Option<&Flag> {
        self.model.as_ref().filter(|gate| !gate.admits(key, traits)).map(|gate| &gate.flag)
    }

    /// A version's flag, where it keeps this key out.
    pub(super) fn closed_version(
        &self,
        version: &VersionName,
        key: &StickyKey,
        traits: &Traits,
    ) -> Option<&Flag> {
        self.versions.get(version).filter(|gate| !gate.admits(key, traits)).map(|gate| &gate.flag)
    }

    /// Whether the switch of a version is on.
    pub(super) fn is_switched_on(&self, version: &VersionName) -> bool {
        self.versions.get(version).is_none_or(|gate| gate.flag.enabled)
    }
}

/// What a flag says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evaluation {
    /// Whether it is let in.
    pub lets_in: bool,
    /// What decided that.
    pub decided_by: DecidedBy,
}

/// What decides whether a flag lets a request in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// Nothing: it lets everybody in.
    Nothing,
    /// It is switched off.
    Switch,
    /// The request is in one of its cohorts, or in none.
    Cohorts,
    /// The share, and where in it the key is.
    Percentage,
}

impl Gate {
    fn admits(&self, key: &StickyKey, traits: &Traits) -> bool {
        self.evaluate(key, traits).lets_in
    }

    fn evaluate(&self, key: &StickyKey, traits: &Traits) -> Evaluation {
        let Flag { enabled, percentage, cohorts, .. } = &self.flag;
        let is_in = |cohort: &Cohort| holds(cohort, key, traits);
        let (lets_in, decided_by) = if !enabled {
            (false, DecidedBy::Switch)
        } else if !cohorts.is_empty() && !cohorts.iter().any(is_in) {
            (false, DecidedBy::Cohorts)
        } else if *percentage < Weight::FULL {
            (bucket_with_seed(key, self.seed).0 < percentage.basis_points(), DecidedBy::Percentage)
        } else if cohorts.is_empty() {
            (true, DecidedBy::Nothing)
        } else {
            (true, DecidedBy::Cohorts)
        };
        Evaluation { lets_in, decided_by }
    }
}

fn holds(cohort: &Cohort, key: &StickyKey, traits: &Traits) -> bool {
    let user = || (traits.who == Who::Named).then(|| key.as_str());
    match cohort {
        Cohort::Header(header) => {
            traits.header(&header.header).is_some_and(|value| header.is.contains(value))
        }
        Cohort::UserPrefix(prefix) => user().is_some_and(|user| user.starts_with(&prefix.user_prefix)),
        Cohort::Users(users) => user().is_some_and(|user| users.users.contains(user)),
    }
}
