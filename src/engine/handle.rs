//! The way to an engine from other threads.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::draft::Draft;
use super::generation::{Event, Failure, channel};
use super::job::Job;
use super::kv_memory::KvMemory;
use super::scheduler::{Limits, Scheduler};
use super::sequence::Variant;
use super::shared::{EngineStats, Phase, Place, Shared, Tenant};
use super::turns::Turns;
use super::worker::{Command, Member, Worker};
use super::{EngineConfig, EngineError, GenerateRequest, Generation, SchedulingPolicy, SubmitError};
use crate::model::{Adapter, CausalLm, KvGeometry, Tokenizer};

/// How long a drain waits for the step under way after its deadline.
const LAST_STEP: Duration = Duration::from_secs(30);

/// How long one who finds the channel full waits before he tries again.
const A_MOMENT: Duration = Duration::from_millis(1);

/// Room in the channel beside the queue's, so that a wake-up finds some.
const SPARE_COMMANDS: usize = 4;

/// A running engine as one of its tenants sees it. Tenants use the same weights: their requests are computed together,
/// and each has counters and an end of its own. Clones are handles of the same tenant; when the last is dropped, what it
/// has is finished and it leaves, and when all have left the engine ends.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    tenant: Arc<Tenant>,
    core: Arc<Core>,
    /// Closed when the tenant has left, and if it was the last, when the thread has freed the model.
    ended: watch::Receiver<()>,
}

/// What all tenants have in common.
#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    turns: Turns,
    commands: SyncSender<Command>,
    limits: EngineLimits,
    vocab: usize,
    queue: usize,
    blocks: usize,
    /// Guards that the thread is joined once; whoever drains first takes it.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.go_on_to(Phase::Draining);
    }
}

impl Inner {
    fn go_on_to(&self, phase: Phase) {
        self.tenant.advance(phase);
        // A full channel wakes the thread as well, and one that is closed has nobody to wake.
        let _ = self.core.commands.try_send(Command::Wake);
    }
}

/// Who is to use an engine.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// For the log.
    pub name: String,
    /// What its requests go through; none for the model's own weights alone.
    pub adapter: Option<Adapter>,
}

impl<T: Into<String>> From<T> for NewTenant {
    fn from(name: T) -> Self {
        Self { name: name.into(), adapter: None }
    }
}

/// What an engine computes.
pub struct Models {
    /// The model that answers.
    pub lm: Box<dyn CausalLm>,
    /// A smaller one of the same vocabulary that says ahead what it may say, where an engine guesses. Lookup does without.
    pub draft: Option<Box<dyn CausalLm>>,
}

/// What an engine can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// The most tokens of a prompt and its answer together.
    pub max_context: usize,
    /// Whether requests may have ranks.
    pub scheduling_policy: SchedulingPolicy,
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Every request came to its end; if no other tenant is there, the model is freed.
    Finished,
    /// At the deadline, some were cut off; if no other tenant is there, the model is freed.
    Cancelled {
        /// How many.
        requests: usize,
    },
    /// The step under way did not end; its thread and the model are still there.
    Stuck,
}

impl DrainOutcome {
    /// How many requests were cut off, as far as is known.
    pub fn cut_off(self) -> usize {
        match self {
            Self::Finished | Self::Stuck => 0,
            Self::Cancelled { requests } => requests,
        }
    }
}

/// Marks the engine dead however its thread ends.
struct MarkDead(Arc<Shared>);

impl Drop for MarkDead {
    fn drop(&mut self) {
        self.0.mark_dead();
    }
}

impl Engine {
    /// Allocates key-value memory for this engine alone and starts it, as [`Engine::start_in`] does.
    pub fn start(
        first: NewTenant,
        lm: Box<dyn CausalLm>,
        tokenizer: Tokenizer,
        config: EngineConfig,
        turns: Turns,
    ) -> Result<Self, EngineError> {
        let memory = config.memory(lm.as_ref())?;
        Self::start_in(&memory, first, lm, tokenizer, config, turns)
    }

    /// Starts one without a draft, as [`Engine::start_with`] does.
    pub fn start_in(
        memory: &KvMemory,
        first: NewTenant,
        lm: Box<dyn CausalLm>,
        tokenizer: Tokenizer,
        config: EngineConfig,
        turns: Turns,
    ) -> Result<Self, EngineError> {
        Self::start_with(memory, first, Models { lm, draft: None }, tokenizer, config, turns)
    }

    /// Starts the thread, named after its first tenant. It takes at most `kv_tokens` of the memory, as it needs
    /// them. Engines that compute on one device hold the same `turns`.
    #[expect(clippy::needless_pass_by_value, reason = "an engine takes what it is started with")]
    pub fn start_with(
        memory: &KvMemory,
        first: NewTenant,
        Models { mut lm, draft }: Models,
        tokenizer: Tokenizer,
        config: EngineConfig,
        turns: Turns,
    ) -> Result<Self, EngineError> {
        let KvGeometry { blocks: most, block_size } = config.geometry()?;
        let EngineConfig { max_running, max_step_tokens, queue, prefix_cache, speculative_tokens, .. } =
            config;
        lm.join(memory.pool()).map_err(|source| EngineError::Join { source })?;
        let NewTenant { name, adapter } = first;
        let adapter = match adapter {
            Some(adapter) => {
                let slot = lm.seat(&adapter).map_err(|source| EngineError::Adapter { source })?;
                Some(slot.ok_or(EngineError::NoAdapters)?)
            }
            None => None,
        };
        lm.reserve(max_step_tokens, max_running)
            .map_err(|source| EngineError::Reserve { max_step_tokens, source })?;
        let (commands, inbox) = sync_channel(queue + SPARE_COMMANDS);
        let share = memory.share(most, commands.clone());
        let blocks = share.most();
        let max_context = lm.max_positions().min(blocks * block_size);
        let vocab = lm.vocab_size();
        let all_blocks = memory.pool().layout().blocks;
        // a device's recorded passes are of single rows, and guesses would cost it more than they save
        let speculative_tokens = if lm.computes_apart() { 0 } else { speculative_tokens };
        let draft = draft.filter(|_| speculative_tokens > 0);
        let draft = draft.map(|draft| Draft::new(draft, &config, all_blocks, vocab)).transpose();
        let draft = draft.map_err(|source| EngineError::Draft { source })?;
        let mut scheduler = Scheduler::new(Limits {
            blocks: all_blocks,
            block_size,
            max_running,
            max_step_tokens,
            prefix_cache,
        });
        let shared = Arc::new(Shared::default());
        let (mut member, ended) = member(&shared);
        if adapter.is_some() {
            member.variant = Variant { adapter, root: scheduler.root() };
        }
        let tenant = Arc::clone(&member.tenant);
        let worker = Worker {
            name: name.clone(),
            lm,
            tokenizer,
            scheduler,
            jobs: HashMap::new(),
            commands: inbox,
            shared: Arc::clone(&shared),
            turns: turns.clone(),
            runner: turns.runner(),
            share,
            speculative_tokens,
            draft,
            untold: Vec::new(),
            members: vec![member],
        };
        let mark = MarkDead(Arc::clone(&shared));
        let thread = std::thread::Builder::new().name(format!("engine {name}")).spawn(move || {
            // Dropped in reverse: dead first, then the worker with the model, whose members are its last.
            let mut worker = worker;
            let _mark = mark;
            worker.run();
        })?;
        let limits = EngineLimits { max_context, scheduling_policy: config.scheduling_policy };
        let thread = Mutex::new(Some(thread));
        let core = Arc::new(Core { shared, turns, commands, limits, vocab, queue, blocks, thread });
        Ok(Self(Arc::new(Inner { name, tenant, core, ended })))
    }

    /// The same engine for another tenant; none if it has ended or is about to, does not answer, or has no room for the
    /// tenant's adapter. Waits for the step under way, so it blocks.
    pub fn share(&self, NewTenant { name, adapter }: NewTenant) -> Option<Self> {
        let core = Arc::clone(&self.0.core);
        let (member, ended) = member(&core.shared);
        let tenant = Arc::clone(&member.tenant);
        let (tell, told) = sync_channel(1);
        let mut admit = Command::Admit(member, adapter, tell);
        let asked = Instant::now();
        while let Err(refused) = core.commands.try_send(admit) {
            match refused {
                TrySendError::Full(again) if asked.elapsed() < LAST_STEP => admit = again,
                TrySendError::Full(_) | TrySendError::Disconnected(_) => return None,
            }
            std::thread::sleep(A_MOMENT);
        }
        // if nobody answers, dropping it is to leave
        let tenant = Self(Arc::new(Inner { name, tenant, core, ended }));
        told.recv_timeout(LAST_STEP).ok()?;
        Some(tenant)
    }

    /// Whether the two are tenants of the same engine.
    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.core, &other.0.core)
    }

    /// Hands a request in. Never blocks. What is taken in is answered, also when the tenant is being drained. A request
    /// that makes no sense (no prompt, a token outside the vocabulary) gives a generation that has failed.
    pub fn submit(&self, mut request: GenerateRequest) -> Result<Generation, SubmitError> {
        let Inner { tenant, core, .. } = &*self.0;
        let Core { shared, commands, limits, turns, .. } = &**core;
        let full = || SubmitError::QueueFull { retry_after: shared.retry_after() };
        let place = Place::take(tenant, core.queue).ok_or_else(full)?;
        // After the place: a thread that lets a tenant go looks for places last.
        if tenant.phase() != Phase::Open || !shared.is_alive() {
            return Err(SubmitError::Closed);
        }
        let (tokens, limit) = (request.prompt.len().saturating_add(request.max_tokens), limits.max_context);
        if tokens > limit {
            return Err(SubmitError::TooLong { tokens, limit });
        }
        if limits.scheduling_policy == SchedulingPolicy::Fcfs {
            request.rank = 0;
        }
        let (mut outbox, generation) = channel(request.max_tokens);
        if let Err(why) = request.check(core.vocab) {
            outbox.send(Event::Failed(Failure::Invalid(why)));
            return Ok(generation);
        }
        let work = Box::new(Job::new(request, outbox, (Arc::clone(tenant), place), turns));
        // Places are fewer than the channel's, so it is full only for a moment, if ever.
        commands.try_send(Command::Generate(work)).map_err(|error| match error {
            TrySendError::Full(_) => full(),
            TrySendError::Disconnected(_) => SubmitError::Closed,
        })?;
        Ok(generation)
    }

    /// The counters now.
    pub fn stats(&self) -> EngineStats {
        self.0.tenant.stats(self.0.core.blocks)
    }

    /// What it can take.
    pub fn limits(&self) -> EngineLimits {
        self.0.core.limits
    }

    /// Whether the tenant's requests are answered. False once the model failed or the tenant has left.
    pub fn is_alive(&self) -> bool {
        self.0.tenant.is_alive()
    }

    /// Takes no more requests of the tenant, lets those it has finish, cuts off what is left at the deadline, and leaves.
    /// The last to leave ends the engine and frees the model.
    pub async fn drain(&self, deadline: Duration) -> DrainOutcome {
        let Inner { name, tenant, core, .. } = &*self.0;
        self.0.go_on_to(Phase::Draining);
        if !self.ends_within(deadline).await {
            self.0.go_on_to(Phase::Stopping);
            if !self.ends_within(LAST_STEP).await {
                tracing::error!(engine = %name, "the step under way does not end; its thread is left behind");
                return DrainOutcome::Stuck;
            }
        }
        if !core.shared.is_alive() {
            let thread = core.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The thread's last act was to say that it ends; a panic in it was reported to its requests.
            let joined = match thread {
                // it may still be freeing the model, which takes a while on a device
                Some(thread) => tokio::task::spawn_blocking(|| thread.join()).await,
                None => Ok(Ok(())),
            };
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!(engine = %name, "the engine's thread panicked");
            }
        }
        match tenant.cut_off.load(Ordering::Relaxed) {
            0 => DrainOutcome::Finished,
            requests => DrainOutcome::Cancelled { requests },
        }
    }

    async fn ends_within(&self, time: Duration) -> bool {
        let mut ended = self.0.ended.clone();
        let end = async move { while ended.changed().await.is_ok() {} };
        tokio::time::timeout(time, end).await.is_ok()
    }
}

/// A new tenant of an engine, for its thread; and the news that it has left.
fn member(engine: &Arc<Shared>) -> (Member, watch::Receiver<()>) {
    let (ending, ended) = watch::channel(());
    let tenant = Arc::new(Tenant::of(Arc::clone(engine)));
    (Member { tenant, variant: Variant::BASE, _ending: ending }, ended)
}
