//! Memory for keys and values that several engines use: who gets blocks of it, and who gives some back.
//!
//! First come, first served, over all engines, as within each: where blocks run out, the older sequence has them. An
//! engine that wants some for a sequence says so, with the sequence's age; the others give what they do not need (empty
//! blocks, then those that only keep a prefix), and then set aside sequences that are younger. So the oldest sequence of
//! all can always have all blocks, and every engine makes progress. A version that has little to do holds little.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::sequence::SequenceId;
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
    pub(super) age: SequenceId,
    pub(super) blocks: usize,
}

/// What an engine asks for before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// For its oldest sequence that lacks some. Without one, nobody is made to give any.
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
        Share { memory: self.clone(), id, held: 0, most }
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

    /// The name of a sequence that comes now.
    pub(super) fn arrival(&self) -> SequenceId {
        SequenceId(self.memory.0.arrivals.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes what is there of what is needed, but for what older sequences of others wait for. Where that is less than must
    /// be, the others hear of it.
    pub(super) fn take(&mut self, cache: &mut KvCache, need: Need) -> Vec<u32> {
        let room = self.most - self.held;
        let must = need.must.map_or(0, |must| must.blocks.min(room));
        let mut book = self.memory.book();
        let age = need.must.map_or(SequenceId::YOUNGEST, |must| must.age);
        let of_older = book.wants_of_others(self.id).filter(|want| want.age < age).map(|want| want.blocks);
        let free = self.memory.0.pool.free().saturating_sub(of_older.sum());
        let taken = cache.take((must + need.more).min(room).min(free));
        self.held += taken.len();
        let missing = must.saturating_sub(taken.len());
        let want = need.must.filter(|_| missing > 0).map(|must| Want { blocks: missing, ..must });
        if let Some(entry) = book.entries.get_mut(&self.id) {
            entry.want = want;
        }
        if want.is_some() {
            book.wake_all_but(self.id);
        }
        taken
    }

    /// Gives blocks back.
    pub(super) fn give(&mut self, cache: &mut KvCache, blocks: Vec<u32>) {
        self.held -= blocks.len();
        cache.give(blocks);
    }

    /// What others lack beyond what is empty, with the age of their oldest; but for those who are younger than what this
    /// engine wants some for itself.
    pub(super) fn owed(&self) -> Option<Want> {
        let mut book = self.memory.book();
        let own = book.entries.get_mut(&self.id).and_then(|entry| {
            entry.woken = false;
            entry.want
        });
        let is_older = |want: &Want| own.is_none_or(|own| want.age < own.age);
        let wants: Vec<Want> = book.wants_of_others(self.id).filter(is_older).collect();
        let age = wants.iter().map(|want| want.age).min()?;
        let wanted: usize = wants.iter().map(|want| want.blocks).sum();
        let blocks = wanted.saturating_sub(self.memory.0.pool.free());
        (blocks > 0).then_some(Want { age, blocks })
    }

    /// Says that nothing is wanted any more.
    pub(super) fn want_nothing(&mut self) {
        if let Some(entry) = self.memory.book().entries.get_mut(&self.id) {
            entry.want = None;
        }
    }

    /// Whether it waits for others to give it some. Until then it keeps what it has got.
    pub(super) fn wants(&self) -> bool {
        self.memory.book().entries.get(&self.id).is_some_and(|entry| entry.want.is_some())
    }

    /// How many blocks are to be emptied of prefixes, if there are such, so that others find some.
    pub(super) fn to_keep_empty(&self) -> usize {
        if self.is_alone() {
            return 0;
        }
        let pool = &self.memory.0.pool;
        (pool.layout().blocks / KEPT_EMPTY).saturating_sub(pool.free())
    }

    /// Whether no other engine uses the memory: then there is no need to give anything back.
    pub(super) fn is_alone(&self) -> bool {
        self.memory.book().entries.len() == 1
    }

    /// Whether what it may still have is with others.
    pub(super) fn waits_for_others(&self) -> bool {
        !self.is_alone() && self.held < self.most
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.book().entries.remove(&self.id);
    }
}
