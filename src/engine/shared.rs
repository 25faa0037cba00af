//! What the engine's thread and its handles both see: counters, and how far each tenant is. Plain atomics: nothing waits
//! here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Counters of an engine as one of its tenants sees them: gauges of this moment, then totals since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Requests of the tenant that are being computed.
    pub running: usize,
    /// Requests of the tenant that wait, those set aside included.
    pub waiting: usize,
    /// Blocks that running requests of all tenants hold.
    pub blocks_used: usize,
    /// Blocks that the engine may hold.
    pub blocks_total: usize,
    /// Prompt tokens of the tenant that the prefix cache spared.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens of the tenant's requests that started.
    pub prompt_tokens: u64,
    /// Tokens generated for the tenant.
    pub generated_tokens: u64,
    /// Tokens that were guessed.
    pub speculated_tokens: u64,
    /// Of those, the right ones.
    pub accepted_tokens: u64,
    /// Times that a request of any tenant was set aside to make room.
    pub preemptions: u64,
    /// Forward passes of the engine.
    pub steps: u64,
}

/// How far a tenant is on its way to the end. Only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    /// Its requests are taken.
    Open,
    /// Those it has are finished.
    Draining,
    /// Those it has are cancelled.
    Stopping,
    /// It has none, and the engine has let it go.
    Gone,
}

/// One for each engine, behind an `Arc` that its thread and all tenants hold.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Whether the thread has ended or is about to.
    dead: AtomicBool,
    /// Requests that were never admitted; each holds a [`Place`].
    queued: AtomicUsize,
    pub(super) blocks_used: AtomicUsize,
    pub(super) preemptions: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) ended_requests: AtomicU64,
    pub(super) busy_micros: AtomicU64,
}

/// One for each tenant, behind an `Arc` that the engine's thread and the tenant's handles hold.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) engine: Arc<Shared>,
    phase: AtomicU8,
    /// Its part of the engine's.
    queued: AtomicUsize,
    pub(super) running: AtomicUsize,
    pub(super) set_aside: AtomicUsize,
    pub(super) prefix_hit_tokens: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) speculated_tokens: AtomicU64,
    pub(super) accepted_tokens: AtomicU64,
    /// Requests that a drain cut off.
    pub(super) cut_off: AtomicUsize,
}

impl Shared {
    /// Notes the end.
    pub(super) fn mark_dead(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// Whether the thread answers.
    pub(super) fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }

    /// How long until a place in the queue is likely to be free: the busy time that a request took so far.
    pub(super) fn retry_after(&self) -> Duration {
        let ended = self.ended_requests.load(Ordering::Relaxed).max(1);
        let each = Duration::from_micros(self.busy_micros.load(Ordering::Relaxed) / ended);
        Duration::from_secs(each.as_secs() + 1).min(Duration::from_mins(1))
    }
}

impl Tenant {
    /// One that has done nothing yet.
    pub(super) fn of(engine: Arc<Shared>) -> Self {
        Self {
            engine,
            phase: AtomicU8::new(Phase::Open as u8),
            queued: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            set_aside: AtomicUsize::new(0),
            prefix_hit_tokens: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            speculated_tokens: AtomicU64::new(0),
            accepted_tokens: AtomicU64::new(0),
            cut_off: AtomicUsize::new(0),
        }
    }

    /// How far it is.
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Open,
            1 => Phase::Draining,
            2 => Phase::Stopping,
            _ => Phase::Gone,
        }
    }

    /// Goes on to a phase; never back.
    pub(super) fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }

    /// Whether its requests are answered.
    pub(super) fn is_alive(&self) -> bool {
        self.engine.is_alive() && self.phase() < Phase::Gone
    }

    /// Whether a request of it may be on its way to the thread.
    pub(super) fn has_queued(&self) -> bool {
        self.queued.load(Ordering::SeqCst) > 0
    }

    /// The counters now.
    pub(super) fn stats(&self, blocks_total: usize) -> EngineStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let gauge = |gauge: &AtomicUsize| gauge.load(Ordering::Relaxed);
        EngineStats {
            running: gauge(&self.running),
            waiting: gauge(&self.queued) + gauge(&self.set_aside),
            blocks_used: gauge(&self.engine.blocks_used),
            blocks_total,
            prefix_hit_tokens: count(&self.prefix_hit_tokens),
            prompt_tokens: count(&self.prompt_tokens),
            generated_tokens: count(&self.generated_tokens),
            speculated_tokens: count(&self.speculated_tokens),
            accepted_tokens: count(&self.accepted_tokens),
            preemptions: count(&self.engine.preemptions),
            steps: count(&self.engine.steps),
        }
    }
}

/// A place in an engine's queue, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Tenant>);

impl Place {
    /// A place, if one of the engine's `limit` is free.
    pub(super) fn take(tenant: &Arc<Tenant>, limit: usize) -> Option<Self> {
        let one_more = |queued| (queued < limit).then_some(queued + 1);
        tenant.engine.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        tenant.queued.fetch_add(1, Ordering::SeqCst);
        Some(Self(Arc::clone(tenant)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::SeqCst);
        self.0.engine.queued.fetch_sub(1, Ordering::SeqCst);
    }
}
