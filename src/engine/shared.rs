//! What the engine's thread and its handles both see: counters and the phase. Plain atomics: nothing waits here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Counters of an engine: gauges of this moment, then totals since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Requests that are being computed.
    pub running: usize,
    /// Requests that wait, those set aside included.
    pub waiting: usize,
    /// Blocks that running requests hold.
    pub blocks_used: usize,
    /// All blocks.
    pub blocks_total: usize,
    /// Prompt tokens that the prefix cache spared.
    pub prefix_hit_tokens: u64,
    /// Prompt tokens of the requests that started.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Times that a request was set aside to make room.
    pub preemptions: u64,
    /// Forward passes.
    pub steps: u64,
}

/// How far an engine is on its way to the end. Only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    /// Takes requests.
    Open,
    /// Finishes those it has.
    Draining,
    /// Cancels those it has.
    Stopping,
}

/// One for each engine, behind an `Arc` that its thread and all of its handles hold.
#[derive(Debug, Default)]
pub(super) struct Shared {
    phase: AtomicU8,
    /// Whether the thread has ended or is about to.
    dead: AtomicBool,
    /// Requests that were never admitted; each holds a [`Place`].
    pub(super) queued: AtomicUsize,
    pub(super) running: AtomicUsize,
    pub(super) set_aside: AtomicUsize,
    pub(super) blocks_used: AtomicUsize,
    pub(super) prefix_hit_tokens: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) preemptions: AtomicU64,
    pub(super) steps: AtomicU64,
    /// Requests that a drain cut off.
    pub(super) cut_off: AtomicUsize,
    pub(super) ended_requests: AtomicU64,
    pub(super) busy_micros: AtomicU64,
}

impl Shared {
    /// How far the engine is.
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Open,
            1 => Phase::Draining,
            _ => Phase::Stopping,
        }
    }

    /// Goes on to a phase; never back.
    pub(super) fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }

    /// Whether requests are answered.
    pub(super) fn is_alive(&self) -> bool {
        !self.dead.load(Ordering::SeqCst)
    }

    /// Notes the end.
    pub(super) fn mark_dead(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    /// How long until a place in the queue is likely to be free: the busy time that a request took so far.
    pub(super) fn retry_after(&self) -> Duration {
        let ended = self.ended_requests.load(Ordering::Relaxed).max(1);
        let each = Duration::from_micros(self.busy_micros.load(Ordering::Relaxed) / ended);
        Duration::from_secs(each.as_secs() + 1).min(Duration::from_mins(1))
    }

    /// The counters now.
    pub(super) fn stats(&self, blocks_total: usize) -> EngineStats {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let gauge = |gauge: &AtomicUsize| gauge.load(Ordering::Relaxed);
        EngineStats {
            running: gauge(&self.running),
            waiting: gauge(&self.queued) + gauge(&self.set_aside),
            blocks_used: gauge(&self.blocks_used),
            blocks_total,
            prefix_hit_tokens: count(&self.prefix_hit_tokens),
            prompt_tokens: count(&self.prompt_tokens),
            generated_tokens: count(&self.generated_tokens),
            preemptions: count(&self.preemptions),
            steps: count(&self.steps),
        }
    }
}

/// A place in the queue, given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Shared>);

impl Place {
    /// A place, if one of `limit` is free.
    pub(super) fn take(shared: &Arc<Shared>, limit: usize) -> Option<Self> {
        let one_more = |queued| (queued < limit).then_some(queued + 1);
        shared.queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::SeqCst);
    }
}
