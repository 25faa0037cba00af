//! The states that a version can be in, and why it cannot go from one to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::backend::{Backend, Prepared, Warm};
use crate::ids::VersionRef;

/// Where one version is.
#[derive(Debug, Clone)]
pub enum State {
    /// On disk, or not even there.
    Cold,
    /// Being read into memory, or brought to the device.
    Loading(Arc<Progress>),
    /// In the host's memory, with nothing on the device.
    Warm(Arc<Warm>),
    /// Serving.
    Hot(Arc<Backend>),
    /// Takes nothing new; finishes what it has.
    Draining(Arc<Backend>),
    /// Its last load failed.
    Failed {
        /// Why, naming the file.
        why: Arc<str>,
    },
}

impl State {
    /// The state's name: `cold`, `loading`, `warm`, `hot`, `draining` or `failed`. An engine that died has failed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Loading(_) => "loading",
            Self::Warm(_) => "warm",
            Self::Hot(backend) if backend.is_alive() => "hot",
            Self::Draining(_) => "draining",
            Self::Hot(_) | Self::Failed { .. } => "failed",
        }
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed { why } => Some(why),
            Self::Hot(backend) if !backend.is_alive() => {
                Some("the engine's thread has ended; load the version again")
            }
            _ => None,
        }
    }

    /// Whether nothing of it serves or is on its way.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self, Self::Cold | Self::Warm(_) | Self::Failed { .. })
    }

    /// Bytes read and bytes to read, while it is being loaded.
    pub fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Self::Loading(progress) => Some(progress.bytes()),
            _ => None,
        }
    }

    /// What computes, if it is loaded so far.
    pub fn backend(&self) -> Option<&Arc<Backend>> {
        match self {
            Self::Hot(backend) | Self::Draining(backend) => Some(backend),
            _ => None,
        }
    }

    /// What the host's memory holds, if it is loaded.
    pub fn prepared(&self) -> Option<&Prepared> {
        match self {
            Self::Hot(backend) | Self::Draining(backend) => Some(&backend.prepared),
            Self::Warm(warm) => Some(&warm.prepared),
            Self::Cold | Self::Loading(_) | Self::Failed { .. } => None,
        }
    }

    pub(super) fn serving(&self) -> Option<&Arc<Backend>> {
        match self {
            Self::Hot(backend) if backend.is_alive() => Some(backend),
            _ => None,
        }
    }
}

/// How far a load is.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Bytes read, and bytes to read; (0, 0) at first.
    pub fn bytes(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }
}

/// Why a version could not be loaded or unloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResidencyError {
    /// It is not configured.
    #[error("the version `{0}` is not in the configuration")]
    Unknown(VersionRef),
    /// It is in a state from which there is no such way.
    #[error("`{version}` is {state}; it cannot be {action} now")]
    Busy {
        /// The version.
        version: VersionRef,
        /// Its state.
        state: &'static str,
        /// `loaded`, `unloaded` or `kept warm`.
        action: &'static str,
    },
    /// The load failed; the state says so too.
    #[error("loading `{version}` failed: {why}")]
    Failed {
        /// The version.
        version: VersionRef,
        /// Why.
        why: String,
    },
}
