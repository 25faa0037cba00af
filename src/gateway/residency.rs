//! Where each version is: on disk, on its way into memory, hot, or on its way out.
//!
//! The states of all versions are one immutable table behind an atomic pointer. Requests read it without a lock;
//! a change replaces it by compare-and-swap, so a transition that another one has forestalled is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use super::backend::Backend;
use crate::config::{ImageRef, PromptRef};
use crate::engine::{DrainOutcome, Engine, EngineConfig, Turns};
use crate::ids::{Digest, VersionRef};
use crate::image;
use crate::model::{self, Device, WeightPool};
use crate::prompt::{ChatTemplate, Prompt};
use crate::release::{Presence, Readiness};
use crate::telemetry::Metrics;

/// Where one version is.
#[derive(Debug, Clone)]
pub enum State {
    /// On disk, or not even there.
    Cold,
    /// Being read into memory.
    Loading(Arc<Progress>),
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
    /// The state's name: `cold`, `loading`, `hot`, `draining` or `failed`. An engine that died has failed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Loading(_) => "loading",
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

    /// Bytes read and bytes to read, while it is being loaded.
    pub fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Self::Loading(progress) => Some(progress.bytes()),
            _ => None,
        }
    }

    /// What is loaded, if anything is.
    pub fn backend(&self) -> Option<&Arc<Backend>> {
        match self {
            Self::Hot(backend) | Self::Draining(backend) => Some(backend),
            _ => None,
        }
    }

    fn serving(&self) -> Option<&Arc<Backend>> {
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

    fn set(&self, done: u64, total: u64) {
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
        /// `loaded` or `unloaded`.
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

/// What it takes to load a version.
#[derive(Debug, Clone)]
pub(super) struct Blueprint {
    pub(super) image: ImageRef,
    pub(super) digest: Option<Digest>,
    pub(super) prompt: Option<PromptRef>,
    pub(super) engine: EngineConfig,
}

type Table = BTreeMap<VersionRef, State>;

/// All versions' states, and the means to change them. Cheap to clone.
#[derive(Clone)]
pub struct Residency(Arc<Inner>);

struct Inner {
    table: ArcSwap<Table>,
    blueprints: BTreeMap<VersionRef, Blueprint>,
    images: Arc<image::Store>,
    /// What all engines compute on.
    turns: Turns,
    pool: WeightPool,
    /// One load at a time: two would halve each other's bandwidth, and the second would not yet find the tensors
    /// that the first is about to share.
    loads: Semaphore,
    /// Versions whose first load since the server came up is still to come.
    awaited: ArcSwap<BTreeSet<VersionRef>>,
    metrics: Metrics,
}

impl Residency {
    pub(super) fn new(
        blueprints: BTreeMap<VersionRef, Blueprint>,
        images: image::Store,
        device: Device,
        turns: Turns,
        metrics: Metrics,
    ) -> Self {
        let table = blueprints.keys().map(|version| (version.clone(), State::Cold)).collect::<Table>();
        Self(Arc::new(Inner {
            table: ArcSwap::from_pointee(table),
            blueprints,
            images: Arc::new(images),
            turns,
            pool: WeightPool::of(device),
            loads: Semaphore::new(1),
            awaited: ArcSwap::default(),
            metrics,
        }))
    }

    /// The states of this moment.
    pub fn table(&self) -> Arc<BTreeMap<VersionRef, State>> {
        self.0.table.load_full()
    }

    /// The version's backend, if it can take a request. Takes no lock.
    pub fn hot(&self, version: &VersionRef) -> Option<Arc<Backend>> {
        self.0.table.load().get(version).and_then(State::serving).cloned()
    }

    /// Says which versions are to be loaded first. They count as coming until [`Residency::first_load`] is over.
    pub(super) fn await_first_loads(&self, versions: BTreeSet<VersionRef>) {
        self.0.awaited.store(Arc::new(versions));
    }

    /// The first load of a version since the server came up.
    pub(super) async fn first_load(&self, version: &VersionRef) {
        // The failure is in the version's state, in the log and in the metrics.
        let _ = self.load(version).await;
        self.0.awaited.rcu(|awaited| {
            let mut awaited = BTreeSet::clone(awaited);
            awaited.remove(version);
            awaited
        });
    }

    /// Loads a version and returns when it is hot or has failed. A version that is hot stays as it is.
    ///
    /// The load goes on if the caller leaves, so no version is stranded on its way.
    pub async fn load(&self, version: &VersionRef) -> Result<Arc<Backend>, ResidencyError> {
        if let Some(backend) = self.hot(version) {
            return Ok(backend);
        }
        let progress = Arc::new(Progress::default());
        self.change(version, "loaded", |state| match state {
            State::Cold | State::Failed { .. } => Some(State::Loading(Arc::clone(&progress))),
            State::Hot(backend) if !backend.is_alive() => Some(State::Loading(Arc::clone(&progress))),
            _ => None,
        })?;
        let (this, owned) = (self.clone(), version.clone());
        let task = tokio::spawn(async move { this.finish_load(owned, progress).await });
        task.await.unwrap_or_else(|e| {
            Err(ResidencyError::Failed {
                version: version.clone(),
                why: format!("the load was cut off: {e}"),
            })
        })
    }

    async fn finish_load(
        &self,
        version: VersionRef,
        progress: Arc<Progress>,
    ) -> Result<Arc<Backend>, ResidencyError> {
        let _turn = self.0.loads.acquire().await;
        let started = std::time::Instant::now();
        let (this, owned) = (self.clone(), version.clone());
        let result = tokio::task::spawn_blocking(move || this.load_blocking(&owned, &progress))
            .await
            .unwrap_or_else(|e| Err(format!("the load panicked: {e}")));
        self.0.metrics.loaded(&version, result.is_ok());
        match result {
            Ok(backend) => {
                let backend = Arc::new(backend);
                self.put(&version, &State::Hot(Arc::clone(&backend)));
                tracing::info!(%version, seconds = started.elapsed().as_secs_f64(), "version is hot");
                Ok(backend)
            }
            Err(why) => {
                tracing::error!(%version, %why, "version failed to load");
                self.put(&version, &State::Failed { why: why.as_str().into() });
                Err(ResidencyError::Failed { version, why })
            }
        }
    }

    /// The way into memory: read the prompt, find and verify the image, read the model, compile its template, start
    /// its engine.
    fn load_blocking(&self, version: &VersionRef, progress: &Progress) -> Result<Backend, String> {
        let plan = self.0.blueprints.get(version).ok_or("it is not in the configuration")?;
        tracing::info!(%version, "loading");
        // The small file first: what is wrong with it shows before gigabytes are read.
        let prompt = plan.prompt.as_ref().map(|prompt| Prompt::read(&prompt.file, prompt.digest));
        let prompt = prompt.transpose().map_err(|e| e.to_string())?;
        // Every byte is read twice, to verify and to load; the first pass takes the second to be as long.
        let verified = |done, total| progress.set(done, 2 * total);
        let image = self.0.images.resolve(&plan.image, plan.digest, &verified).map_err(|e| e.to_string())?;
        let report = |done, total| progress.set(image.bytes + done, image.bytes + total);
        let loaded = model::load(&image.dir, &self.0.pool, &report).map_err(|e| e.to_string())?;
        let template = loaded
            .chat_template
            .as_deref()
            .map(|source| ChatTemplate::compile(source, &loaded.special))
            .transpose()
            .map_err(|e| e.to_string())?;
        let (tokenizer, settings, turns) =
            (loaded.tokenizer.clone(), plan.engine.clone(), self.0.turns.clone());
        let engine = Engine::start(version.to_string(), loaded.lm, tokenizer, settings, turns)
            .map_err(|e| e.to_string())?;
        Ok(Backend {
            version: version.clone(),
            digest: image.digest,
            prompt,
            image_bytes: image.bytes,
            info: loaded.info,
            engine,
            tokenizer: loaded.tokenizer,
            template,
            defaults: loaded.generation,
            eos: loaded.eos,
        })
    }

    /// Takes a version out of the hands of new requests. What it has begun goes on; [`Residency::drain`] ends it.
    pub(super) fn withdraw(&self, version: &VersionRef) -> Result<Option<Arc<Backend>>, ResidencyError> {
        let mut leaving = None;
        self.change(version, "unloaded", |state| match state {
            State::Hot(backend) => {
                leaving = Some(Arc::clone(backend));
                Some(State::Draining(Arc::clone(backend)))
            }
            State::Cold | State::Failed { .. } => {
                leaving = None;
                Some(State::Cold)
            }
            State::Loading(_) | State::Draining(_) => None,
        })?;
        Ok(leaving)
    }

    /// Lets a version that was withdrawn finish what it has, within the deadline, and frees it.
    pub(super) async fn drain(&self, backend: Arc<Backend>, deadline: Duration) -> DrainOutcome {
        let version = &backend.version;
        let outcome = backend.engine.drain(deadline).await;
        let state = match outcome {
            DrainOutcome::Finished | DrainOutcome::Cancelled { .. } => State::Cold,
            DrainOutcome::Stuck => State::Failed {
                why: "its last step does not end; its memory is held until it does, or the process ends"
                    .into(),
            },
        };
        tracing::info!(%version, ?outcome, state = state.name(), "version was drained");
        self.leave(&backend, &state);
        outcome
    }

    /// Drains every version at once, those that an operator is unloading too; for the end of the server. How many
    /// requests were cut off.
    pub(super) async fn drain_all(&self, deadline: Duration) -> usize {
        let table = self.table();
        let leaving = table.iter().filter_map(|(version, state)| match state {
            State::Hot(_) => self.withdraw(version).ok().flatten(),
            // An engine may be drained twice; whoever comes second waits with the first.
            State::Draining(backend) => Some(Arc::clone(backend)),
            State::Cold | State::Loading(_) | State::Failed { .. } => None,
        });
        let drains = leaving.map(|backend| self.drain(backend, deadline));
        let outcomes = futures::future::join_all(drains).await;
        outcomes.into_iter().map(DrainOutcome::cut_off).sum()
    }

    /// Puts a state in the place of the present one if `next` allows it from there.
    fn change(
        &self,
        version: &VersionRef,
        action: &'static str,
        mut next: impl FnMut(&State) -> Option<State>,
    ) -> Result<(), ResidencyError> {
        let mut refused = None;
        self.0.table.rcu(|table| {
            refused = None;
            let Some(now) = table.get(version) else {
                refused = Some(ResidencyError::Unknown(version.clone()));
                return Arc::clone(table);
            };
            if let Some(state) = next(now) {
                let mut table = Table::clone(table);
                table.insert(version.clone(), state);
                return Arc::new(table);
            }
            refused = Some(ResidencyError::Busy { version: version.clone(), state: now.name(), action });
            Arc::clone(table)
        });
        refused.map_or(Ok(()), Err)
    }

    /// Ends a draining, unless another that waited for the same engine has ended it already.
    fn leave(&self, drained: &Arc<Backend>, state: &State) {
        self.0.table.rcu(|table| match table.get(&drained.version) {
            Some(State::Draining(backend)) if Arc::ptr_eq(backend, drained) => {
                let mut table = Table::clone(table);
                table.insert(drained.version.clone(), state.clone());
                Arc::new(table)
            }
            _ => Arc::clone(table),
        });
    }

    /// Ends a load that this caller began: from `Loading` nothing else leads away.
    pub(super) fn put(&self, version: &VersionRef, state: &State) {
        self.0.table.rcu(|table| {
            let mut table = Table::clone(table);
            table.insert(version.clone(), state.clone());
            Arc::new(table)
        });
    }
}

impl Readiness for Residency {
    fn presence(&self, version: &VersionRef) -> Presence {
        let table = self.0.table.load();
        let state = table.get(version);
        if state.and_then(State::serving).is_some() {
            Presence::Hot
        } else if matches!(state, Some(State::Loading(_))) || self.0.awaited.load().contains(version) {
            Presence::Coming
        } else {
            Presence::Gone
        }
    }
}

impl std::fmt::Debug for Residency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Residency").field(&self.table()).finish()
    }
}
