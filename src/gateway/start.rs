//! The gateway itself: what it is made of, and how it comes up.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::Prepared;
use super::device::choose;
use super::draft::DraftPlan;
use super::embedding::embedder;
use super::first_loads::wanted_hot;
use super::interleave::interleave;
use super::kept::Shelves;
use super::kv::KvPlan;
use super::mirror::{Mirror, Shadow};
use super::replicas;
use super::residency::{Blueprint, Residency};
use super::settings::InForce;
use super::state::State;
use super::watching::{SEEN, sink, watched};
use super::wishes::Wishes;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, ConfigError, ConfigErrors, EngineSettings, KvTokens, ModelConfig};
use crate::engine::{EngineConfig, PrefixCache, SchedulingPolicy, Turns};
use crate::ids::{ModelName, VersionName, VersionRef, Weight};
use crate::image;
use crate::model::{Device, TensorError};
use crate::notify::{Courier, NotifyError, Terms, Webhooks};
use crate::quality::{CheckQueue, Checks, CompileError, Embedder, Limits, Plan};
use crate::release::{Declared, Message, Readiness, ReleaseError, Releases, Routes, Watcher};
use crate::store;
use crate::telemetry::{EngineSample, Metrics, ResidencySample, RouteSample};

/// Why the gateway could not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A check of the configuration cannot work.
    #[error(transparent)]
    Checks(#[from] ConfigErrors),
    /// The model that `similar` checks compare with could not be loaded.
    #[error(
        "{}:{line}: embedding: {image} cannot be loaded: {why}\nthe checks that compare by meaning need it: correct \
         `embedding`, or remove it with those checks",
        file.display()
    )]
    Embedding {
        /// The configuration.
        file: PathBuf,
        /// The line of its `embedding`.
        line: u64,
        /// Where the model was to be.
        image: String,
        /// Why, naming the file.
        why: String,
    },
    /// What the configuration wants to compute on is not to be had.
    #[error(
        "engine.device: {0}\n`switchback doctor` tells what this machine has; `device: auto` takes the processor where no GPU can be used"
    )]
    Device(#[from] TensorError),
    /// The thread that checks answers could not be started.
    #[error("the thread that checks answers cannot be started: {0}")]
    CheckThread(#[source] std::io::Error),
    /// The image store could not be opened.
    #[error("the image store cannot be opened: {0}")]
    Images(#[from] image::ImageError),
    /// The state database could not be opened.
    #[error("the state database cannot be opened: {0}")]
    Store(#[from] store::StoreError),
    /// Webhooks could not be set up.
    #[error("webhooks cannot be set up: {0}")]
    Webhooks(#[from] NotifyError),
    /// The routes could not be read back.
    #[error("the routes cannot be read back: {0}")]
    Releases(#[from] ReleaseError),
}

/// How time passes for rollouts. Tests let it pass faster.
#[derive(Clone)]
pub struct Pace {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How often rollouts are looked at; by the machine's own time.
    pub look_every: Duration,
}

/// As it does on the wall; rollouts are looked at each second.
impl Default for Pace {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), look_every: Duration::from_secs(1) }
    }
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("look_every", &self.look_every).finish_non_exhaustive()
    }
}

/// The way of every request, and the hand of every operator. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

pub(super) struct Inner {
    pub(super) settings: InForce,
    /// What the configuration wants of traffic, as far as that waits.
    pub(super) wishes: Wishes,
    pub(super) routes: Routes,
    pub(super) releases: Releases,
    pub(super) residency: Residency,
    pub(super) metrics: Metrics,
    pub(super) checks: CheckQueue,
    pub(super) mirror: Mirror,
    /// Answers that models keep for operators.
    pub(super) kept: Arc<Shelves>,
    /// The way to what drives the rollouts.
    pub(super) watcher: mpsc::Sender<Message>,
    /// The time that rollouts go by.
    pub(super) clock: Arc<dyn Clock>,
    pub(super) request_timeout: Duration,
    pub(super) drain_deadline: Duration,
    /// Set once, when the server begins to stop.
    pub(super) closed: AtomicBool,
    /// Set once, when every version that was to be hot at the start is hot or has failed.
    pub(super) settled: watch::Sender<bool>,
    /// Told when a rollout may wait for its suite.
    pub(super) suite_wanted: Notify,
    /// What all engines compute on.
    turns: Turns,
    /// Who is told what rollouts do.
    pub(super) webhooks: Webhooks,
    /// Ends the tasks below, but for what still counts.
    pub(super) stop: CancellationToken,
    /// Set once, when nothing is answered or checked any more.
    pub(super) end: CancellationToken,
    /// What runs as long as the gateway does.
    pub(super) tasks: TaskTracker,
    started: SystemTime,
}

impl Gateway {
    /// What its engines compute on.
    pub fn device(&self) -> &Device {
        self.0.residency.device()
    }

    /// Opens the stores, loads the embedding model if one is configured, and reads back the routes; loads no version yet.
    pub async fn start(config: &Config, metrics: Metrics, pace: Pace) -> Result<Self, StartError> {
        let Pace { clock, look_every } = pace;
        let images = image::Store::open(&config.server.images)?;
        let plans = plans(config, embedder(config, &images).await?.as_ref())?;
        let (to_watcher, inbox) = mpsc::channel(SEEN);
        let sink = sink(to_watcher.clone(), metrics.clone());
        let checks = CheckQueue::start(plans, Limits::default(), metrics.clone(), sink)
            .map_err(StartError::CheckThread)?;
        let turns = Turns::new(config.server.mirror_capacity);
        let device = choose(config.device)?;
        tracing::info!(%device, "engines compute on it");
        let residency = Residency::new(blueprints(config), images, device, turns.clone(), metrics.clone());
        let store = replicas::open(&config.server.store).await?;
        let time = Arc::new(SystemClock);
        let (courier, webhooks) =
            Courier::subscribe(&config.webhooks, &store, time, metrics.clone(), Terms::default()).await?;
        let ready: Arc<dyn Readiness> = Arc::new(residency.clone());
        let releases =
            Releases::start(store.clone(), declared(config), Arc::clone(&ready), Arc::clone(&clock)).await?;
        let mut watcher = Watcher::new(
            releases.clone(),
            ready,
            Arc::clone(&clock),
            config.server.request_timeout,
            watched(config),
        )
        .counting_by(metrics.clone());
        let (settled, stop, tasks) =
            (watch::Sender::new(false), CancellationToken::new(), TaskTracker::new());
        let (mirror, copies) = Mirror::new(metrics.clone());
        let shadow = Shadow {
            residency: residency.clone(),
            checks: checks.clone(),
            metrics: metrics.clone(),
            checked: Arc::new(checked(config)),
        };
        tasks.spawn(copies.answer(shadow, stop.clone()));
        let end = CancellationToken::new();
        // Before it is loaded, no version of an earlier process is hot, and none has died.
        let awaited = wanted_hot(&config.models, &releases).into_iter().collect();
        residency.await_first_loads(awaited);
        tasks.spawn(interleave(turns.clone(), releases.clone(), look_every, stop.clone()));
        let (stopping, ending) = (stop.clone(), end.clone());
        tasks.spawn(async move {
            watcher.take_up_experiments().await;
            watcher.run(inbox, look_every, stopping, ending).await;
        });
        tasks.spawn(replicas::deliver(courier, store.role(), stop.clone()));
        replicas::keep_up(store, &tasks, &stop);
        let gateway = Self(Arc::new(Inner {
            settings: InForce::new(config.clone()),
            wishes: Wishes::default(),
            routes: releases.routes(),
            releases,
            residency,
            metrics,
            checks,
            mirror,
            kept: Arc::default(),
            watcher: to_watcher,
            clock,
            turns,
            request_timeout: config.server.request_timeout,
            drain_deadline: config.server.drain_deadline,
            suite_wanted: Notify::new(),
            webhooks,
            closed: AtomicBool::new(false),
            settled,
            stop,
            end,
            tasks,
            started: SystemTime::now(),
        }));
        gateway.inner().tasks.spawn(gateway.clone().follow_wishes());
        Ok(gateway)
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// The weights of a model's route at this moment; empty for a model that is not configured.
    pub(super) fn weights(&self, model: &ModelName) -> BTreeMap<VersionName, Weight> {
        self.0.routes.snapshot().get(model).map(|route| route.weights().clone()).unwrap_or_default()
    }

    /// The header that keeps this model's users on one version, if one is configured.
    pub fn sticky_header(&self, model: &ModelName) -> Option<String> {
        self.configured(model, |config| config.sticky_header.clone())?
    }

    /// What is read of a model's configuration as it is now; nothing of a model that is not configured.
    pub(super) fn configured<T>(&self, model: &ModelName, read: impl FnOnce(&ModelConfig) -> T) -> Option<T> {
        self.0.settings.load().config.models.get(model).map(read)
    }

    /// The routes as requests read them.
    pub fn routes(&self) -> Routes {
        self.0.routes.clone()
    }

    /// The one model, where there is one.
    pub fn only_model(&self) -> Option<ModelName> {
        let settings = self.0.settings.load();
        let mut names = settings.config.models.keys();
        names.next().filter(|_| names.next().is_none()).cloned()
    }

    /// Unix time in seconds at which the gateway came up.
    pub fn started_at(&self) -> u64 {
        self.0.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// Versions whose engine died while they were hot.
    pub fn dead_engines(&self) -> Vec<VersionRef> {
        let table = self.0.residency.table();
        let dead = table.iter().filter(|(_, state)| matches!(state, State::Hot(b) if !b.is_alive()));
        dead.map(|(version, _)| version.clone()).collect()
    }

    /// Why no requests should be sent here; nothing if they should.
    pub fn not_ready(&self) -> Vec<String> {
        if self.0.closed.load(Ordering::Acquire) {
            return vec!["the server is shutting down".into()];
        }
        if !*self.0.settled.borrow() {
            return vec!["the first loads are not over".into()];
        }
        let (routes, settings) = (self.0.routes.snapshot(), self.0.settings.load());
        let stable = settings.config.models.keys().filter_map(|model| {
            let version = routes.get(model)?.stable().clone();
            Some(VersionRef { model: model.clone(), version })
        });
        // A canary alone must not get the traffic that balancers send to who is ready.
        let missing = stable.filter(|version| self.0.residency.hot(version).is_none());
        missing.map(|version| format!("the stable version `{version}` is not hot")).collect()
    }

    /// The server's metrics, for what is counted before a request comes here.
    pub fn metrics(&self) -> &Metrics {
        &self.inner().metrics
    }

    /// The text of `/metrics`.
    pub fn render_metrics(&self) -> Result<String, prometheus::Error> {
        let table = self.0.residency.table();
        let mut engines = Vec::new();
        let mut residency = Vec::new();
        for (version, state) in table.iter() {
            let (backend, prepared) = (state.backend(), state.prepared());
            residency.push(ResidencySample {
                version: version.clone(),
                state: state.name(),
                weight_bytes: prepared.map_or(0, Prepared::weight_bytes),
                shared_bytes: prepared.map_or(0, Prepared::shared_bytes),
            });
            if let Some((backend, engine)) = backend.and_then(|b| Some((b, b.engine().ok()?))) {
                let stats = engine.stats();
                engines.push(EngineSample {
                    version: version.clone(),
                    alive: backend.is_alive(),
                    running: stats.running as u64,
                    waiting: stats.waiting as u64,
                    blocks_used: stats.blocks_used as u64,
                    blocks_total: stats.blocks_total as u64,
                    preemptions: stats.preemptions,
                    steps: stats.steps,
                    prefix_hit_tokens: stats.prefix_hit_tokens,
                    generated_tokens: stats.generated_tokens,
                    speculated_tokens: stats.speculated_tokens,
                    accepted_tokens: stats.accepted_tokens,
                });
            }
        }
        let settings = self.0.settings.load();
        let routes: Vec<_> =
            settings.config.models.keys().flat_map(|model| self.route_samples(model)).collect();
        self.show_replica();
        self.0.metrics.render(&engines, &residency, &routes, self.0.turns.background_time())
    }

    fn route_samples(&self, model: &ModelName) -> Vec<RouteSample> {
        let snapshot = self.0.routes.snapshot();
        let Some(route) = snapshot.get(model) else { return Vec::new() };
        let sample = |(version, weight): (&VersionName, &Weight)| RouteSample {
            version: VersionRef { model: model.clone(), version: version.clone() },
            percent: weight.percent(),
            revision: route.revision(),
        };
        route.weights().iter().map(sample).collect()
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("residency", &self.0.residency).finish_non_exhaustive()
    }
}

pub(super) fn blueprints(config: &Config) -> BTreeMap<VersionRef, Blueprint> {
    let mut all = BTreeMap::new();
    for (model, settings) in &config.models {
        for (name, version) in &settings.versions {
            let reference = VersionRef { model: model.clone(), version: name.clone() };
            let (image, digest, prompt) = (version.image.clone(), version.digest, version.prompt.clone());
            let (quantize, adapter) = (version.quantize, version.adapter.clone());
            let draft = version.draft.as_ref().and_then(|draft| DraftPlan::of(config, draft));
            let engine = engine_config(&settings.engine);
            let kv = KvPlan { tokens: settings.engine.kv_tokens, most: version.kv_tokens };
            let (tool_parser, reasoning_parser) = (version.tool_parser, version.reasoning_parser);
            let plan = Blueprint {
                image,
                digest,
                quantize,
                adapter,
                draft,
                prompt,
                tool_parser,
                reasoning_parser,
                engine,
                kv,
            };
            all.insert(reference, plan);
        }
    }
    all
}

/// The checks of all models, or all that is wrong with them, as the config's own mistakes are told.
fn plans(config: &Config, embedder: Option<&Embedder>) -> Result<BTreeMap<ModelName, Plan>, ConfigErrors> {
    let mut plans = BTreeMap::new();
    let mut errors = Vec::new();
    for (model, settings) in config.models.iter().filter(|(_, settings)| !settings.checks.is_empty()) {
        match Checks::compile(&settings.checks, embedder) {
            Ok(checks) => drop(plans.insert(model.clone(), Plan { checks, share: settings.check_sample })),
            Err(faults) => errors.extend(faults.into_iter().map(|fault| config_error(model, fault))),
        }
    }
    if errors.is_empty() {
        Ok(plans)
    } else {
        Err(ConfigErrors { file: config.file.clone(), overlay: config.overlay.clone(), errors })
    }
}

/// The models that have checks.
fn checked(config: &Config) -> BTreeSet<ModelName> {
    let checked = config.models.iter().filter(|(_, settings)| !settings.checks.is_empty());
    checked.map(|(model, _)| model.clone()).collect()
}

fn config_error(model: &ModelName, fault: CompileError) -> ConfigError {
    let CompileError { index, line, field, found, fix, .. } = fault;
    ConfigError { line, path: format!("models.{model}.checks[{index}].{field}"), found, fix }
}

pub(super) fn declared(config: &Config) -> BTreeMap<ModelName, Declared> {
    let flags = |settings: &ModelConfig| {
        let versions = settings.versions.iter();
        let versions =
            versions.filter_map(|(name, version)| Some((Some(name.clone()), version.flag.clone()?)));
        settings.flag.clone().map(|flag| (None, flag)).into_iter().chain(versions).collect()
    };
    let declared = |settings: &ModelConfig| Declared {
        flags: flags(settings),
        versions: settings.versions.keys().cloned().collect(),
        wanted: settings.version.clone(),
        first_route: settings.route.clone(),
    };
    config.models.iter().map(|(model, settings)| (model.clone(), declared(settings))).collect()
}

fn engine_config(settings: &EngineSettings) -> EngineConfig {
    EngineConfig {
        // a memory's size is settled when it is allocated
        kv_tokens: KvTokens::ON_THE_HOST,
        block_size: settings.block_size,
        max_running: settings.max_running,
        max_step_tokens: settings.max_step_tokens,
        queue: settings.queue,
        prefix_cache: if settings.prefix_cache { PrefixCache::On } else { PrefixCache::Off },
        scheduling_policy: match settings.scheduling_policy {
            config::SchedulingPolicy::Fcfs => SchedulingPolicy::Fcfs,
            config::SchedulingPolicy::Priority => SchedulingPolicy::Priority,
        },
        speculative_tokens: settings.speculative_tokens,
    }
}

/// The same, so long that no two are ever alike.
pub(super) fn random_u128() -> u128 {
    u128::from(random_u64()) << 64 | u128::from(random_u64())
}

/// A number nobody chose: for seeds, request names and connection keys. Not for secrets.
///
/// The keys of each `RandomState` are others than those before it, and the first of a thread come from the system's
/// randomness.
pub fn random_u64() -> u64 {
    RandomState::new().hash_one(0_u8)
}
