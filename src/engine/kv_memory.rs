//! Memory for keys and values that several engines use: who gets blocks of it, and who gives some back.
//!
//! First come, first served, over all engines, as within each, but for ranks: where blocks run out, the older sequence has
//! them. An engine that wants some for a sequence says so, with the sequence's age (its rank, and when its engine took it in);
//! the others
//! give what they do not need (empty blocks, then those that only keep a prefix), and then set aside sequences that are
//! younger. So the oldest sequence of all can always have all blocks, and every engine makes progress. A version that has
//! little to do holds little. What is in the background is younger than any client's request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::plan::Plan;
use super::scheduler::{Lacking, Scheduler};
use super::sequence::{Age, SequenceId};
use super::turns::Priority;
use super::worker::Command;
use crate::model::{KvCache, KvPool};

/// Of the blocks, one in so many is kept empty where several engines use the memory, so that who needs one has it at once.
const KEPT_EMPTY: usize = 16;

/// Memory for keys and values. Clones are the same memory; engines whose models have keys and values of equal sizes on the
/// same device can share one.
#[derive(Debug, Clone)]
pub struct KvMemory(Arc<Inner>);

/// Memory that is there as long as an engine uses it.
#[derive(Debug, Clone)]
pub struct WeakKvMemory(Weak<Inner>);

impl WeakKvMemory {
    /// The memory, if it is still there.
    pub fn upgrade(&self) -> Option<KvMemory> {
        self.0.upgrade().map(KvMemory)
    }
}

#[derive(Debug)]
struct Inner {
    pool: KvPool,
    /// Names sequences by age, over all engines.
    arrivals: AtomicU64,
    // Guards who wants blocks. To take some is one step with finding that nobody older wants them; the engines' threads
    // do it once a step each, for as long as it takes to add a few numbers.
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

/// What the others know of an engine.
#[derive(Debug)]
struct Entry {
    want: Option<Want>,
    wake: SyncSender<Command>,
    /// Whether it was woken and has not looked yet: more than one such message would take its requests' places.
    woken: bool,
}

/// Blocks that a sequence cannot do without, and the others have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) age: Age,
    pub(super) blocks: usize,
}

/// What an engine asks for before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// For its oldest sequence that lacks some.
    pub(super) must: Option<Want>,
    /// What it could use besides.
    pub(super) more: usize,
}

/// An engine's part of the memory.
#[derive(Debug)]
pub(super) struct Share {
    memory: KvMemory,
    id: u64,
    held: usize,
    /// The most that it may hold.
    most: usize,
    /// As the book has it.
    want: Option<Want>,
    /// Whether other engines used the memory when it was last looked at.
    company: Company,
}

/// Whether other engines use a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Company {
    Alone,
    Others,
}

impl KvMemory {
    /// Of the blocks of a pool that nobody uses yet.
    pub fn new(pool: KvPool) -> Self {
        Self(Arc::new(Inner { pool, arrivals: AtomicU64::new(0), book: Mutex::default() }))
    }

    /// Finds it again as long as an engine uses it.
    pub fn downgrade(&self) -> WeakKvMemory {
        WeakKvMemory(Arc::downgrade(&self.0))
    }

    /// The pool that it is made of.
    pub fn pool(&self) -> &KvPool {
        &self.0.pool
    }

    /// A part of it for an engine, of at most so many blocks. The others are told that they are not alone any more.
    pub(super) fn share(&self, most: usize, wake: SyncSender<Command>) -> Share {
        let mut book = self.book();
        let id = book.next;
        book.next += 1;
        book.wake_all_but(id);
        book.entries.insert(id, Entry { want: None, wake, woken: false });
        drop(book);
        let most = most.min(self.0.pool.layout().blocks);
        Share { memory: self.clone(), id, held: 0, most, want: None, company: Company::Alone }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn wants_of_others(&self, id: u64) -> impl Iterator<Item = Want> {
        let others = self.entries.iter().filter(move |(other, _)| **other != id);
        others.filter_map(|(_, entry)| entry.want)
    }

    fn company_of(&self, id: u64) -> Company {
        if self.entries.keys().any(|other| *other != id) { Company::Others } else { Company::Alone }
    }

    fn set_want(&mut self, id: u64, want: Option<Want>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.want = want;
        }
    }

    fn wake_all_but(&mut self, id: u64) {
        for (_, entry) in self.entries.iter_mut().filter(|(other, entry)| **other != id && !entry.woken) {
            entry.woken = true;
            // one whose channel is full is awake
            let _ = entry.wake.try_send(Command::Wake);
        }
    }
}

impl Share {
    /// The most blocks that it may hold.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// The name of a sequence of such a rank that comes now.
    pub(super) fn arrival(&self, rank: i32) -> SequenceId {
        SequenceId { rank, arrival: self.memory.0.arrivals.fetch_add(1, Ordering::Relaxed) }
    }

    /// The next step of a lane, with what can be had of the blocks that it needs; none where the others have them, who know
    /// of it then. Empty where the lane has nothing to do.
    pub(super) fn plan(
        &mut self,
        scheduler: &mut Scheduler,
        cache: &mut KvCache,
        priority: Priority,
    ) -> Option<Plan> {
        let taken = self.take(cache, scheduler.need(priority));
        scheduler.stock(taken);
        let others_have_some = self.company == Company::Others && self.held < self.most;
        let lacking = if others_have_some { Lacking::Wait } else { Lacking::SetAside };
        let plan = scheduler.plan(priority, lacking);
        // a younger one of its own may have made room
        self.want_no_longer(scheduler);
        (!plan.parts.is_empty() || !others_have_some).then_some(plan)
    }

    /// Gives back what others need more, and what is not needed. Between two steps, and before an engine rests.
    pub(super) fn give_way(&mut self, scheduler: &mut Scheduler, cache: &mut KvCache) {
        self.want_no_longer(scheduler);
        let debts = self.debts();
        if self.company == Company::Alone {
            return;
        }
        // what it waits for it keeps as it comes
        if self.want.is_none() {
            let spared = scheduler.spare(debts.to_keep_empty);
            self.give(cache, spared);
        }
        for want in debts.wants {
            let blocks = scheduler.give_way(want);
            self.give(cache, blocks);
        }
    }

    /// Takes what is there of what is needed, but for what others wait for: what must be, but for what older sequences wait
    /// for. Where that is less than must be, the others hear of it.
    fn take(&mut self, cache: &mut KvCache, need: Need) -> Vec<u32> {
        let room = self.most - self.held;
        let must = need.must.map_or(0, |must| must.blocks.min(room));
        let mut book = self.memory.book();
        let (mut of_others, mut of_older) = (0, 0);
        for want in book.wants_of_others(self.id) {
            of_others += want.blocks;
            of_older += if need.must.is_some_and(|must| want.age < must.age) { want.blocks } else { 0 };
        }
        let free = self.memory.0.pool.free();
        let for_must = must.min(free.saturating_sub(of_older));
        let for_more = need.more.min(room - must).min((free - for_must).saturating_sub(of_others));
        let taken = cache.take(for_must + for_more);
        self.held += taken.len();
        self.want = need.must.map(|want| Want { blocks: must.saturating_sub(for_must), ..want });
        self.want = self.want.filter(|want| want.blocks > 0);
        self.company = book.company_of(self.id);
        book.set_want(self.id, self.want);
        if self.want.is_some() {
            book.wake_all_but(self.id);
        }
        taken
    }

    fn give(&mut self, cache: &mut KvCache, blocks: Vec<u32>) {
        self.held -= blocks.len();
        cache.give(blocks);
    }

    /// Has the others forget a want whose sequence has what it wanted, or is gone.
    fn want_no_longer(&mut self, scheduler: &Scheduler) {
        if self.want.take_if(|want| !scheduler.lacks_blocks(want.age)).is_some() {
            self.memory.book().set_want(self.id, None);
        }
    }

    /// What the others want of this engine, but for what is younger than that for which it wants some itself.
    fn debts(&mut self) -> Debts {
        let mut book = self.memory.book();
        self.company = book.company_of(self.id);
        if let Some(entry) = book.entries.get_mut(&self.id) {
            entry.woken = false;
        }
        let own = self.want;
        let is_older = |want: &Want| own.is_none_or(|own| want.age < own.age);
        let mut wants: Vec<Want> = book.wants_of_others(self.id).filter(is_older).collect();
        wants.sort_by_key(|want| want.age);
        let pool = &self.memory.0.pool;
        let mut free = pool.free();
        let to_keep_empty = (pool.layout().blocks / KEPT_EMPTY).saturating_sub(free);
        // the oldest has what is empty already
        for want in &mut wants {
            let covered = want.blocks.min(free);
            free -= covered;
            want.blocks -= covered;
        }
        wants.retain(|want| want.blocks > 0);
        Debts { wants, to_keep_empty }
    }
}

/// What others are to have of an engine.
#[derive(Debug)]
struct Debts {
    /// Beyond what is empty; the oldest first.
    wants: Vec<Want>,
    /// Blocks that are to be emptied of prefixes, if there are such, so that others find some.
    to_keep_empty: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.book().entries.remove(&self.id);
    }
}

#[cfg(test)]
#[path = "kv_memory_tests.rs"]
mod tests;
