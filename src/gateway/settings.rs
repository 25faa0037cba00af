//! The configuration that is in force, as requests and operators read it.
//!
//! Requests read one immutable snapshot; a reload puts another in its place. What the file holds now, if that was refused, is
//! told beside it.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard};

use crate::config::Config;
use crate::ids::Digest;
use crate::telemetry::ConfigNews;

/// A configuration, and since when it is in force.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) since: Timestamp,
}

/// Which configuration is in force.
#[derive(Debug, Clone)]
pub struct ConfigStatus {
    /// Its file.
    pub file: PathBuf,
    /// What is laid over it, if something is.
    pub overlay: Option<PathBuf>,
    /// The sha256 of both texts.
    pub digest: Digest,
    /// Since when.
    pub since: Timestamp,
    /// What the file holds now, if that cannot be taken.
    pub refused: Option<RefusedConfig>,
}

/// A configuration that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedConfig {
    /// When it was last tried.
    pub at: Timestamp,
    /// Everything that is wrong with it.
    pub why: String,
}

/// The settings of the moment. Reading them takes no lock.
pub(super) struct InForce {
    now: ArcSwap<Settings>,
    refused: ArcSwapOption<RefusedConfig>,
    /// Who swaps them, or acts on them as a whole, has it.
    turn: Mutex<()>,
}

impl InForce {
    pub(super) fn new(config: Config) -> Self {
        let settings = Settings { config, since: Timestamp::now() };
        Self { now: ArcSwap::from_pointee(settings), refused: ArcSwapOption::empty(), turn: Mutex::new(()) }
    }

    pub(super) fn load(&self) -> Guard<Arc<Settings>> {
        self.now.load()
    }

    /// For who goes on for long: a guard is for who is soon done.
    pub(super) fn load_full(&self) -> Arc<Settings> {
        self.now.load_full()
    }

    /// Nobody else swaps the settings until this is dropped.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Puts a configuration in force, which the file holds.
    pub(super) fn swap(&self, config: Config) -> ConfigNews {
        let settings = self.now.load_full();
        self.refused.store(None);
        if settings.config.digest == config.digest {
            return ConfigNews::Known;
        }
        self.now.store(Arc::new(Settings { config, since: Timestamp::now() }));
        ConfigNews::Another
    }

    /// Says that what the file holds cannot be taken.
    pub(super) fn refuse(&self, why: &str) -> ConfigNews {
        let known = self.refused.load().as_ref().is_some_and(|refused| refused.why == why);
        self.refused.store(Some(Arc::new(RefusedConfig { at: Timestamp::now(), why: why.to_owned() })));
        if known { ConfigNews::Known } else { ConfigNews::Another }
    }

    pub(super) fn status(&self) -> ConfigStatus {
        let (settings, refused) = (self.now.load(), self.refused.load());
        let Settings { config, since } = &**settings;
        ConfigStatus {
            file: config.file.clone(),
            overlay: config.overlay.clone(),
            digest: config.digest,
            since: *since,
            refused: refused.as_deref().cloned(),
        }
    }
}
