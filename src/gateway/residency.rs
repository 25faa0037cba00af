//! Where each version is: on disk, on its way into memory, warm in the host's, hot on the device, or on its way out.
//!
//! The states of all versions are one immutable table behind an atomic pointer. Requests read it without a lock;
//! a change replaces it by compare-and-swap, so a transition that another one has forestalled is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use super::backend::{Backend, Body, Decoder, Prepared, Runner, Warm};
use super::encoders::EncoderQueue;
use super::kv::{Expected, KvMemories, KvPlan, Later};
use super::speech::Formats;
use super::state::{Progress, ResidencyError, State};
use super::structured::Structures;
use crate::config::{ImageRef, PromptRef, ReasoningParser, ToolParser};
use crate::engine::{DrainOutcome, Engine, EngineConfig, Turns};
use crate::ids::{Digest, Quantize, VersionRef};
use crate::image;
use crate::model::{self, Device, Encoder, Footprint, LoadedModel, WeightPool};
use crate::prompt::{ChatTemplate, Prompt};
use crate::release::{Presence, Readiness};
use crate::telemetry::Metrics;

/// What it takes to load a version.
#[derive(Debug, Clone)]
pub(super) struct Blueprint {
    pub(super) image: ImageRef,
    pub(super) digest: Option<Digest>,
    pub(super) quantize: Quantize,
    pub(super) prompt: Option<PromptRef>,
    pub(super) tool_parser: Option<ToolParser>,
    pub(super) reasoning_parser: ReasoningParser,
    /// But for its key-value memory.
    pub(super) engine: EngineConfig,
    pub(super) kv: KvPlan,
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
    blueprints: BTreeMap<VersionRef, Blueprint>,
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
        Body::Encoder(_) => None,
    };
    Ok(Warm { prepared, _staged: staged })
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
            memories: KvMemories::default(),
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
    pub(super) async fn first_load(&self, version: &VersionRef, to: LoadTo) {
        // The failure is in the version's state, in the log and in the metrics.
        let _ = self.load(version, to).await;
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
        let this = self.clone();
        let result = tokio::task::spawn_blocking(move || this.load_blocking(&load))
            .await
            .unwrap_or_else(|e| Err(format!("the load panicked: {e}")));
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

    fn load_blocking(&self, load: &Load) -> Result<State, String> {
        let Load { version, was_warm, to, progress } = load;
        let plan = self.0.blueprints.get(version).ok_or("it is not in the configuration")?;
        tracing::info!(%version, "loading");
        let prepared = match was_warm {
            Some(warm) => Arc::clone(&warm.prepared),
            None => Arc::new(self.prepare(version, plan, progress)?),
        };
        match to {
            LoadTo::Warm => Ok(State::Warm(Arc::new(staged(prepared)?))),
            LoadTo::Hot => {
                let runner = match &prepared.body {
                    Body::Encoder(_) => Runner::Encoder(EncoderQueue::new(plan.engine.queue)),
                    Body::Decoder(decoder) => Runner::Engine(match self.engine_of_sibling(&prepared, plan) {
                        Some(engine) => engine,
                        None => self.start_engine(&prepared.version, &decoder.model, plan)?,
                    }),
                };
                Ok(State::Hot(Arc::new(Backend { prepared, runner })))
            }
        }
    }

    /// A place at the engine of another version of the model, hot by now, that has the same image and settings: what tells
    /// the two apart (a prompt) comes before the engine, and their requests are computed together.
    fn engine_of_sibling(&self, prepared: &Prepared, plan: &Blueprint) -> Option<Engine> {
        let table = self.0.table.load();
        let is_sibling = |backend: &&Arc<Backend>| {
            let sibling = &backend.prepared;
            let its = self.0.blueprints.get(&sibling.version);
            let same_settings = its.is_some_and(|its| its.engine == plan.engine && its.kv == plan.kv);
            sibling.version.model == prepared.version.model
                && (sibling.digest, sibling.quantize) == (prepared.digest, prepared.quantize)
                && same_settings
        };
        let sibling = table.values().filter_map(State::serving).find(is_sibling)?;
        let Some(engine) = sibling.engine().ok()?.share(prepared.version.to_string()) else {
            tracing::warn!(version = %prepared.version, sibling = %sibling.version(), "its engine does not answer: another one is started");
            return None;
        };
        tracing::info!(version = %prepared.version, sibling = %sibling.version(), "they share an engine");
        Some(engine)
    }

    fn start_engine(
        &self,
        version: &VersionRef,
        model: &LoadedModel,
        plan: &Blueprint,
    ) -> Result<Engine, String> {
        let mut lm = model.lm().map_err(|e| e.to_string())?;
        let Inner { memories, pool, turns, .. } = &*self.0;
        let memory = memories.of(
            &version.model,
            lm.as_mut(),
            (&plan.engine, plan.kv.tokens),
            pool.device(),
            || self.later(version),
        )?;
        let layout = memory.pool().layout();
        let kv_tokens = plan.kv.most.unwrap_or(layout.blocks * layout.block_size);
        let settings = EngineConfig { kv_tokens, ..plan.engine.clone() };
        let (name, tokenizer) = (version.to_string(), model.tokenizer.clone());
        Engine::start_in(&memory, name, lm, tokenizer, settings, turns.clone()).map_err(|e| e.to_string())
    }

    /// Which engines are to find room on the device beside that of a version that is being loaded, as far as their files
    /// can be found and read.
    fn later(&self, version: &VersionRef) -> Vec<Later> {
        let Inner { blueprints, images, awaited, table, .. } = &*self.0;
        let (awaited, table) = (awaited.load(), table.load());
        let on_device = |other: &VersionRef| table.get(other).is_some_and(|state| state.backend().is_some());
        let there = blueprints.iter().filter(|(other, _)| *other == version || on_device(other));
        let mut engines: Vec<_> =
            there.map(|(other, plan)| (&other.model, &plan.image, plan.quantize)).collect();
        // those that come for certain first, so that what they bring counts as theirs
        let (soon, perhaps): (Vec<_>, Vec<_>) =
            blueprints.iter().partition(|(other, _)| awaited.contains(*other));
        let soon = soon.into_iter().map(|plan| (plan, Expected::Soon));
        let perhaps = perhaps.into_iter().map(|plan| (plan, Expected::Perhaps));
        let mut later = Vec::new();
        for ((other, plan), expected) in soon.chain(perhaps) {
            // versions of a model that differ in their prompt share an engine
            let engine = (&other.model, &plan.image, plan.quantize);
            if engines.contains(&engine) {
                continue;
            }
            let brought = engines
                .iter()
                .any(|(_, image, quantize)| (*image, *quantize) == (&plan.image, plan.quantize));
            engines.push(engine);
            let dir = images.dir_of(&plan.image).ok().flatten();
            let Some(footprint) = dir.and_then(|dir| Footprint::of(&dir, plan.quantize).ok()) else {
                continue;
            };
            let weight_bytes = if brought { 0 } else { footprint.weight_bytes };
            let (model, tokens) = (other.model.clone(), plan.kv.tokens);
            later.push(Later { model, footprint, weight_bytes, tokens, expected });
        }
        later
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
        // Every byte is read twice, to verify and to load; the first pass takes the second to be as long.
        let verified = |done, total| progress.set(done, 2 * total);
        let image = self.0.images.resolve(&plan.image, plan.digest, &verified).map_err(|e| e.to_string())?;
        let report = |done, total| progress.set(image.bytes + done, image.bytes + total);
        let body = if Encoder::is_in(&image.dir) {
            if prompt.is_some() {
                return Err("its image is an encoder, and texts have no prompt: leave `prompt` out".into());
            }
            if plan.quantize != Quantize::AsStored {
                return Err(
                    "its image is an encoder, which is computed as it is stored: leave `quantize` out".into(),
                );
            }
            let encoder = Encoder::load_in(&image.dir, &self.0.pool, &report).map_err(|e| e.to_string())?;
            // damaged weights show with the first text, whichever it is
            encoder.embed("a first text").map_err(|e| e.to_string())?;
            Body::Encoder(Arc::new(encoder))
        } else {
            Body::Decoder(Box::new(self.decoder(&image.dir, plan, &report)?))
        };
        let (version, digest, image_bytes) = (version.clone(), image.digest, image.bytes);
        Ok(Prepared { version, digest, quantize: plan.quantize, prompt, image_bytes, body })
    }

    fn decoder(&self, dir: &Path, plan: &Blueprint, report: &dyn Fn(u64, u64)) -> Result<Decoder, String> {
        let model = model::load(dir, plan.quantize, &self.0.pool, report).map_err(|e| e.to_string())?;
        let sources = model.chat_templates.as_ref();
        let template = sources.map(|sources| ChatTemplate::compile_all(sources, &model.special));
        let template = template.transpose().map_err(|e| e.to_string())?;
        let source = sources.map(|sources| sources.tool_use.as_ref().unwrap_or(&sources.default).as_str());
        let formats = Formats::of(plan.tool_parser, plan.reasoning_parser, source);
        Ok(Decoder { model, template, structures: Structures::default(), formats })
    }

    /// Takes a version out of the hands of new requests. What it has begun goes on; [`Residency::drain`] ends it.
    pub(super) fn withdraw(
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
    pub(super) async fn drain(
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
    pub(super) async fn drain_all(&self, deadline: Duration) -> usize {
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
                table.insert(drained.version().clone(), state.clone());
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
