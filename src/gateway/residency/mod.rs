//! Where each version is: on disk, on its way into memory, warm in the host's, hot on the device, or on its way out.
//!
//! The states of all versions are one immutable table behind an atomic pointer. Requests read it without a lock;
//! a change replaces it by compare-and-swap, so a transition that another one has forestalled is refused.

mod engines;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::config::{AdapterRef, ImageRef, PromptRef, ReasoningParser, ToolParser};
use crate::engine::{DrainOutcome, EngineConfig, Turns};
use crate::gateway::backend::{Backend, Body, Prepared, Runner, Warm};
use crate::gateway::body::Beside;
use crate::gateway::draft::DraftPlan;
use crate::gateway::encoders::EncoderQueue;
use crate::gateway::kv::{KvMemories, KvPlan};
use crate::gateway::state::{Progress, ResidencyError, State};
use crate::ids::{Digest, Quantize, VersionRef};
use crate::image::{self, LocatedImage};
use crate::model::{Adapter, Device, WeightPool};
use crate::prompt::Prompt;
use crate::release::{Presence, Readiness};
use crate::telemetry::Metrics;

/// What it takes to load a version.
#[derive(Debug, Clone)]
pub(in crate::gateway) struct Blueprint {
    pub(in crate::gateway) image: ImageRef,
    pub(in crate::gateway) digest: Option<Digest>,
    pub(in crate::gateway) quantize: Quantize,
    pub(in crate::gateway) adapter: Option<AdapterRef>,
    pub(in crate::gateway) draft: Option<DraftPlan>,
    pub(in crate::gateway) prompt: Option<PromptRef>,
    pub(in crate::gateway) tool_parser: Option<ToolParser>,
    pub(in crate::gateway) reasoning_parser: ReasoningParser,
    /// But for its key-value memory.
    pub(in crate::gateway) engine: EngineConfig,
    pub(in crate::gateway) kv: KvPlan,
}

/// What decides a version's answers, as the configuration has it.
type Identity<'a> = (&'a ImageRef, Option<Digest>, Quantize, Option<&'a AdapterRef>, Option<&'a PromptRef>);

impl Blueprint {
    fn identity(&self) -> Identity<'_> {
        (&self.image, self.digest, self.quantize, self.adapter.as_ref(), self.prompt.as_ref())
    }
}

/// How far a load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadTo {
    /// Into the host's memory.
    Warm,
    /// To the device, where it serves.
    Hot,
}

/// How far an unload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnloadTo {
    /// Off the device: it stays in the host's memory, and is soon back.
    Warm,
    /// Out of memory.
    Cold,
}

type Table = BTreeMap<VersionRef, State>;

/// All versions' states, and the means to change them. Cheap to clone.
#[derive(Clone)]
pub struct Residency(Arc<Inner>);

struct Inner {
    table: ArcSwap<Table>,
    /// Of all versions that are declared.
    blueprints: ArcSwap<BTreeMap<VersionRef, Blueprint>>,
    images: Arc<image::Store>,
    /// What all engines compute on.
    turns: Turns,
    pool: WeightPool,
    memories: KvMemories,
    /// One load at a time: two would halve each other's bandwidth, and the second would not yet find the tensors
    /// that the first is about to share.
    loads: Semaphore,
    /// Versions whose first load since the server came up is still to come.
    awaited: ArcSwap<BTreeSet<VersionRef>>,
    metrics: Metrics,
}

/// A load under way.
struct Load {
    version: VersionRef,
    /// What it was before, if it was warm.
    was_warm: Option<Arc<Warm>>,
    to: LoadTo,
    progress: Arc<Progress>,
}

fn staged(prepared: Arc<Prepared>) -> Result<Warm, String> {
    let staged = match &prepared.body {
        Body::Decoder(decoder) => Some(decoder.model.stage().map_err(|e| e.to_string())?),
        Body::Encoder(_) | Body::CrossEncoder(_) => None,
    };
    Ok(Warm { prepared, _staged: staged })
}

impl Residency {
    pub(in crate::gateway) fn new(
        blueprints: BTreeMap<VersionRef, Blueprint>,
        images: image::Store,
        device: Device,
        turns: Turns,
        metrics: Metrics,
    ) -> Self {
        let table = blueprints.keys().map(|version| (version.clone(), State::Cold)).collect::<Table>();
        Self(Arc::new(Inner {
            table: ArcSwap::from_pointee(table),
            blueprints: ArcSwap::from_pointee(blueprints),
            images: Arc::new(images),
            turns,
            pool: WeightPool::of(device),
            memories: KvMemories::default(),
            loads: Semaphore::new(1),
            awaited: ArcSwap::default(),
            metrics,
        }))
    }

    /// What versions are loaded for.
    pub fn device(&self) -> &Device {
        self.0.pool.device()
    }

    /// The states of this moment.
    pub fn table(&self) -> Arc<BTreeMap<VersionRef, State>> {
        self.0.table.load_full()
    }

    /// The version's backend, if it can take a request. Takes no lock.
    pub fn hot(&self, version: &VersionRef) -> Option<Arc<Backend>> {
        self.0.table.load().get(version).and_then(State::serving).cloned()
    }

    /// Takes the versions of another configuration. What is new is cold; what is no longer declared, and serves or is on its
    /// way, stays until it is withdrawn and drained. What is loaded stays as it was loaded.
    pub(in crate::gateway) fn declare(&self, blueprints: BTreeMap<VersionRef, Blueprint>) {
        let declared: BTreeSet<VersionRef> = blueprints.keys().cloned().collect();
        self.0.blueprints.store(Arc::new(blueprints));
        self.0.table.rcu(|table| {
            let mut table = Table::clone(table);
            table.retain(|version, state| declared.contains(version) || !state.is_at_rest());
            for version in &declared {
                table.entry(version.clone()).or_insert(State::Cold);
            }
            Arc::new(table)
        });
    }

    /// Says that the first load of a version is to come.
    pub(in crate::gateway) fn await_first_load(&self, version: &VersionRef) {
        self.0.awaited.rcu(|awaited| {
            let mut awaited = BTreeSet::clone(awaited);
            awaited.insert(version.clone());
            awaited
        });
    }

    /// Says which versions are to be loaded first. They count as coming until [`Residency::first_load`] is over.
    pub(in crate::gateway) fn await_first_loads(&self, versions: BTreeSet<VersionRef>) {
        self.0.awaited.store(Arc::new(versions));
    }

    /// The first load of a version since the server came up.
    pub(in crate::gateway) async fn first_load(&self, version: &VersionRef, to: LoadTo) {
        // The failure is in the version's state, in the log and in the metrics.
        let _ = self.load(version, to).await;
        self.first_load_is_over(version);
    }

    /// Says that the first load of a version is no longer to come.
    pub(in crate::gateway) fn first_load_is_over(&self, version: &VersionRef) {
        self.0.awaited.rcu(|awaited| {
            let mut awaited = BTreeSet::clone(awaited);
            awaited.remove(version);
            awaited
        });
    }

    /// Loads a version and returns when it is there or has failed. One that is as far already, or farther, stays as it is;
    /// one that is warm stays so where it does not fit on the device.
    ///
    /// The load goes on if the caller leaves, so no version is stranded on its way.
    pub async fn load(&self, version: &VersionRef, to: LoadTo) -> Result<(), ResidencyError> {
        let table = self.0.table.load();
        match (table.get(version), to) {
            (Some(State::Hot(backend)), _) if backend.is_alive() => return Ok(()),
            (Some(State::Warm(_)), LoadTo::Warm) => return Ok(()),
            _ => {}
        }
        let progress = Arc::new(Progress::default());
        let mut was_warm = None;
        self.change(version, "loaded", |state| {
            was_warm = None;
            match state {
                State::Cold | State::Failed { .. } => {}
                State::Hot(backend) if !backend.is_alive() => {}
                State::Warm(warm) => was_warm = Some(Arc::clone(warm)),
                State::Loading(_) | State::Hot(_) | State::Draining(_) => return None,
            }
            Some(State::Loading(Arc::clone(&progress)))
        })?;
        let (this, load) = (self.clone(), Load { version: version.clone(), was_warm, to, progress });
        let task = tokio::spawn(async move { this.finish_load(load).await });
        task.await.unwrap_or_else(|e| {
            Err(ResidencyError::Failed {
                version: version.clone(),
                why: format!("the load was cut off: {e}"),
            })
        })
    }

    async fn finish_load(&self, load: Load) -> Result<(), ResidencyError> {
        let _turn = self.0.loads.acquire().await;
        let started = std::time::Instant::now();
        let (version, was_warm) = (load.version.clone(), load.was_warm.clone());
        let (this, blueprints) = (self.clone(), self.0.blueprints.load_full());
        let plan = blueprints.get(&version).cloned();
        let loaded = tokio::task::spawn_blocking(move || {
            this.load_blocking(&load, plan.as_ref().ok_or("it is not in the configuration")?)
        });
        let result = loaded.await.unwrap_or_else(|e| Err(format!("the load panicked: {e}")));
        let result =
            result.and_then(|state| self.is_still(&version, blueprints.get(&version)).map(|()| state));
        self.0.metrics.loaded(&version, result.is_ok());
        match result {
            Ok(state) => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(%version, seconds, state = state.name(), "version is loaded");
                self.put(&version, &state);
                Ok(())
            }
            Err(why) => {
                tracing::error!(%version, %why, "version failed to load");
                let failed = || State::Failed { why: why.as_str().into() };
                self.put(&version, &was_warm.map_or_else(failed, State::Warm));
                Err(ResidencyError::Failed { version, why })
            }
        }
    }

    /// Refuses what a version was when its load began, if the configuration has changed that meanwhile.
    fn is_still(&self, version: &VersionRef, was: Option<&Blueprint>) -> Result<(), String> {
        let now = self.0.blueprints.load();
        let changed = was.zip(now.get(version)).is_some_and(|(was, now)| was.identity() != now.identity());
        if changed {
            Err("the configuration changed it while it was being loaded".to_owned())
        } else {
            Ok(())
        }
    }

    fn load_blocking(&self, load: &Load, plan: &Blueprint) -> Result<State, String> {
        let Load { version, was_warm, to, progress } = load;
        tracing::info!(%version, "loading");
        let prepared = match was_warm {
            Some(warm) => Arc::clone(&warm.prepared),
            None => Arc::new(self.prepare(version, plan, progress)?),
        };
        match to {
            LoadTo::Warm => Ok(State::Warm(Arc::new(staged(prepared)?))),
            LoadTo::Hot => {
                let runner = match &prepared.body {
                    Body::Encoder(_) | Body::CrossEncoder(_) => {
                        Runner::Encoder(EncoderQueue::new(plan.engine.queue))
                    }
                    Body::Decoder(decoder) => {
                        Runner::Engine(match self.engine_of_sibling(&prepared, decoder, plan) {
                            Some(engine) => engine,
                            None => self.start_engine(&prepared, decoder, plan)?,
                        })
                    }
                };
                Ok(State::Hot(Arc::new(Backend { prepared, runner })))
            }
        }
    }

    /// The way into the host's memory: read the prompt, find and verify the image, read the model, compile its template.
    fn prepare(
        &self,
        version: &VersionRef,
        plan: &Blueprint,
        progress: &Progress,
    ) -> Result<Prepared, String> {
        // The small file first: what is wrong with it shows before gigabytes are read.
        let prompt = plan.prompt.as_ref().map(|prompt| Prompt::read(&prompt.file, prompt.digest));
        let prompt = prompt.transpose().map_err(|e| e.to_string())?;
        let adapter = plan.adapter.as_ref().map(|adapter| self.adapter_files(adapter)).transpose()?;
        let draft = plan.draft.as_ref().map(|draft| draft.find(&self.0.images, self.device()));
        let draft = draft.transpose()?.flatten();
        // Every byte is read twice, to verify and to load; the first pass takes the second to be as long.
        let verified = |done, total| progress.set(done, 2 * total);
        let image = self.0.images.resolve(&plan.image, plan.digest, &verified).map_err(|e| e.to_string())?;
        let report = |done, total| progress.set(image.bytes + done, image.bytes + total);
        let beside = Beside {
            prompt: prompt.as_ref(),
            adapter: adapter.as_ref().map(|files| files.dir.as_path()),
            draft: draft.as_ref(),
        };
        let body = Body::read(&image.dir, plan, beside, &self.0.pool, &report)?;
        let (version, digest, image_bytes) = (version.clone(), image.digest, image.bytes);
        let adapter = adapter.map(|adapter| adapter.digest);
        Ok(Prepared { version, digest, quantize: plan.quantize, adapter, prompt, image_bytes, body })
    }

    /// Finds and verifies an adapter. It is small, and what is wrong with it shows before gigabytes are read.
    fn adapter_files(&self, AdapterRef { image, digest }: &AdapterRef) -> Result<LocatedImage, String> {
        let files = self.0.images.resolve(image, *digest, &|_, _| ()).map_err(|e| format!("adapter: {e}"))?;
        if Adapter::is_in(&files.dir) {
            return Ok(files);
        }
        Err(format!(
            "adapter: {} has no adapter_config.json: give a folder in PEFT's layout",
            files.dir.display()
        ))
    }

    /// Takes a version out of the hands of new requests. What it has begun goes on; [`Residency::drain`] ends it.
    pub(in crate::gateway) fn withdraw(
        &self,
        version: &VersionRef,
        to: UnloadTo,
    ) -> Result<Option<Arc<Backend>>, ResidencyError> {
        let action = match to {
            UnloadTo::Warm => "kept warm",
            UnloadTo::Cold => "unloaded",
        };
        let mut leaving = None;
        self.change(version, action, |state| {
            leaving = None;
            match (state, to) {
                (State::Hot(backend), _) => {
                    leaving = Some(Arc::clone(backend));
                    Some(State::Draining(Arc::clone(backend)))
                }
                (State::Warm(_), UnloadTo::Warm) => Some(state.clone()),
                (State::Cold | State::Failed { .. } | State::Warm(_), UnloadTo::Cold) => Some(State::Cold),
                // of those that are cold or failed, memory has nothing that could stay
                (State::Cold | State::Failed { .. }, UnloadTo::Warm)
                | (State::Loading(_) | State::Draining(_), _) => None,
            }
        })?;
        Ok(leaving)
    }

    /// Lets a version that was withdrawn finish what it has, within the deadline, and frees it. Where it is to stay warm
    /// and the host has no room for that, the log says so, and it is cold.
    pub(in crate::gateway) async fn drain(
        &self,
        backend: Arc<Backend>,
        deadline: Duration,
        to: UnloadTo,
    ) -> DrainOutcome {
        let version = backend.version();
        // while the weights are still on the device: from there they come fastest
        let warm = match to {
            UnloadTo::Cold => None,
            UnloadTo::Warm => {
                let prepared = Arc::clone(&backend.prepared);
                let staged = tokio::task::spawn_blocking(move || staged(prepared)).await;
                match staged.unwrap_or_else(|e| Err(format!("it panicked: {e}"))) {
                    Ok(warm) => Some(Arc::new(warm)),
                    Err(why) => {
                        tracing::warn!(%version, %why, "the version cannot stay warm");
                        None
                    }
                }
            }
        };
        let outcome = backend.drain(deadline).await;
        let state = match outcome {
            DrainOutcome::Finished | DrainOutcome::Cancelled { .. } => warm.map_or(State::Cold, State::Warm),
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
    pub(in crate::gateway) async fn drain_all(&self, deadline: Duration) -> usize {
        let table = self.table();
        let leaving = table.iter().filter_map(|(version, state)| match state {
            State::Hot(_) => self.withdraw(version, UnloadTo::Cold).ok().flatten(),
            // An engine may be drained twice; whoever comes second waits with the first.
            State::Draining(backend) => Some(Arc::clone(backend)),
            State::Cold | State::Loading(_) | State::Warm(_) | State::Failed { .. } => None,
        });
        let drains = leaving.map(|backend| self.drain(backend, deadline, UnloadTo::Cold));
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
        self.0.table.rcu(|table| match table.get(drained.version()) {
            Some(State::Draining(backend)) if Arc::ptr_eq(backend, drained) => {
                let mut table = Table::clone(table);
                if self.0.blueprints.load().contains_key(drained.version()) {
                    table.insert(drained.version().clone(), state.clone());
                } else {
                    table.remove(drained.version());
                }
                Arc::new(table)
            }
            _ => Arc::clone(table),
        });
    }

    /// Ends a load that this caller began: from `Loading` nothing else leads away. Of a version that has left the
    /// configuration meanwhile, nothing is kept.
    pub(in crate::gateway) fn put(&self, version: &VersionRef, state: &State) {
        self.0.table.rcu(|table| {
            let mut table = Table::clone(table);
            if self.0.blueprints.load().contains_key(version) {
                table.insert(version.clone(), state.clone());
            } else {
                table.remove(version);
            }
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
