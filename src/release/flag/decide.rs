//! From a route and the flags over it to the version that a key gets, or the text.

use std::sync::Arc;

use super::gate::Flags;
use super::traits::{Traits, Who};
use crate::config::Otherwise;
use crate::ids::VersionName;
use crate::release::route::Route;
use crate::release::sticky::{Bucket, StickyKey};

/// What chose a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenBy {
    /// The route, as if there were no flags.
    Route,
    /// A flag that let the key not in where the route would have sent it.
    Flag,
}

/// A text that a flag has answered in the place of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canned {
    /// The version whose flag it is; none for the model's own.
    pub flag: Option<VersionName>,
    /// The text.
    pub text: Arc<str>,
}

/// What a key gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::release) enum Choice<'a> {
    /// A version, and what chose it.
    Version(&'a VersionName, ChosenBy),
    /// A flag's text.
    Canned(Canned),
    /// Nothing: a flag refuses it.
    Refused,
}

impl<'a> Choice<'a> {
    /// The version, if it is one.
    pub(in crate::release) fn version(&self) -> Option<&'a VersionName> {
        match self {
            Self::Version(version, _) => Some(version),
            Self::Canned(_) | Self::Refused => None,
        }
    }
}

impl Flags {
    /// What a key gets whose bucket this is.
    pub(in crate::release) fn choose<'a>(
        &'a self,
        route: &'a Route,
        bucket: Bucket,
        key: &StickyKey,
        traits: &Traits,
    ) -> Choice<'a> {
        let flagged = |other: Option<&'a VersionName>| {
            other.map_or(Choice::Refused, |other| Choice::Version(other, ChosenBy::Flag))
        };
        if let Some(closed) = self.closed_model(key, traits) {
            return match &closed.otherwise {
                Otherwise::Answer(text) => Choice::Canned(Canned { flag: None, text: Arc::clone(text) }),
                Otherwise::Version(other) => flagged(Some(other).filter(|other| self.is_switched_on(other))),
                Otherwise::Refuse | Otherwise::Rest => Choice::Refused,
            };
        }
        let owner = route.owner(bucket);
        let Some(closed) = self.closed_version(owner, key, traits) else {
            return Choice::Version(owner, ChosenBy::Route);
        };
        match &closed.otherwise {
            Otherwise::Refuse => Choice::Refused,
            Otherwise::Answer(text) => {
                Choice::Canned(Canned { flag: Some(owner.clone()), text: Arc::clone(text) })
            }
            Otherwise::Version(other) if self.admits(other, key, traits) => flagged(Some(other)),
            // one hop, no further: what is closed too leaves the rest of the route
            Otherwise::Version(_) | Otherwise::Rest => flagged(self.rest(route, key, traits)),
        }
    }

    /// Whether a key may get a version, were the route to send it there.
    pub(in crate::release) fn admits(&self, version: &VersionName, key: &StickyKey, traits: &Traits) -> bool {
        self.closed_version(version, key, traits).is_none()
    }

    /// Whether a key may name a version. Shares and cohorts of the version are about whom the route sends to it, so
    /// they do not count.
    pub(in crate::release) fn admits_named(
        &self,
        version: &VersionName,
        key: &StickyKey,
        traits: &Traits,
    ) -> bool {
        let is_open = traits.who == Who::Server || self.closed_model(key, traits).is_none();
        is_open && self.is_switched_on(version)
    }

    /// Of the versions on the route that the key may get, the stable one, else the heaviest; where there is none, the
    /// version that a rollback would restore, as if it had come already.
    fn rest<'a>(&self, route: &'a Route, key: &StickyKey, traits: &Traits) -> Option<&'a VersionName> {
        let stable = route.stable();
        if self.admits(stable, key, traits) {
            return Some(stable);
        }
        let open = |version: &VersionName| self.admits(version, key, traits);
        let on_route = route.weights().iter().rev().filter(|(version, _)| open(version));
        let heaviest = on_route.max_by_key(|(_, weight)| **weight).map(|(version, _)| version);
        heaviest
            .or_else(|| route.rollback_target().map(|target| &target.version).filter(|version| open(version)))
    }
}
