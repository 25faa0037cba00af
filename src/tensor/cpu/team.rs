//! The threads that share out a product.
//!
//! A decode step is hundreds of products, each over in a tenth of a millisecond, one after the other. A pool whose workers
//! sleep in between spends as long on waking them. Here one thread leads, the engine's own, and does its share; the
//! others help, and look out for the next product for a moment before they sleep. Nobody waits for a helper that has not
//! begun: a round is closed when there is nothing left to take, and who wakes too late finds it closed.
//!
//! One product at a time has the helpers. Engines that compute at once take turns, of a millisecond or a product, whichever is
//! longer; a lock does for that, as who leads sleeps until it is his turn anyway, and `parking_lot`'s is the one that is
//! fair in the long run. A thread of rayon's pool, where encoders compute several texts, shares out within that pool.
//!
//! # Invariants
//! - A round's work is read only by its leader and by who is inside, and it outlives the round: the leader leaves no round,
//!   not even by a panic, before it is closed and nobody is inside.
//! - Nobody is inside while a round is prepared.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rayon::prelude::*;

/// How long a helper looks out for the next product before it sleeps: longer than what a step does alone between two.
const LOOKS_OUT: Duration = Duration::from_micros(200);

static TEAM: LazyLock<Arc<Team>> = LazyLock::new(|| {
    // more threads than cores would look out in each other's way
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Team::with_helpers(threads().min(cores) - 1)
});

thread_local! {
    /// Whether this thread is at work for a team: what it would share out, it does alone.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// Calls `task` with each of `0..tasks`, in no order, on several threads; over when all calls are.
///
/// # Panics
/// If a call does.
fn for_each(tasks: usize, task: impl Fn(usize) + Sync) {
    if AT_WORK.get() {
        (0..tasks).for_each(task);
    } else if rayon::current_thread_index().is_some() {
        (0..tasks).into_par_iter().with_max_len(1).for_each(&task);
    } else {
        TEAM.for_each(tasks, &task);
    }
}

/// Calls `task` with each of `items`, in no order, on several threads; over when all calls are.
///
/// # Panics
/// If a call does.
pub(super) fn consume<T: Send>(items: Vec<T>, task: impl Fn(T) + Sync) {
    let slots = items.into_iter().map(|item| UnsafeCell::new(Some(item))).collect();
    let slots = Slots(slots);
    for_each(slots.0.len(), |i| {
        // SAFETY: `for_each` gives each place to one call
        if let Some(item) = unsafe { slots.take(i) } {
            task(item);
        }
    });
}

/// One item a task.
struct Slots<T>(Vec<UnsafeCell<Option<T>>>);

// SAFETY: a place is only touched by the one task that it is for
unsafe impl<T: Send> Sync for Slots<T> {}

impl<T> Slots<T> {
    /// # Safety
    /// Nobody else touches place `i` meanwhile.
    unsafe fn take(&self, i: usize) -> Option<T> {
        // SAFETY: the caller's promise
        unsafe { (*self.0[i].get()).take() }
    }
}

/// Threads that compute at once.
pub(super) fn threads() -> usize {
    rayon::current_num_threads()
}

/// The fewest bytes of weights that are worth a task.
const LEAST_TASK_BYTES: usize = 16 << 10;

/// How many of a product's outputs a task may have.
#[derive(Clone, Copy)]
pub(super) struct TaskSize {
    pub(super) most: usize,
    /// Bytes of weights of one output.
    pub(super) row_bytes: usize,
    /// What it is a multiple of.
    pub(super) unit: usize,
}

/// Shares of `outs` outputs in order, one a task: each half of what its taker's fair part of the rest is, so that long
/// stretches of memory are read in one go and all threads still end together (guided self-scheduling, Polychronopoulos
/// and Kuck, 1987).
pub(super) fn shares(outs: usize, size: TaskSize) -> Vec<Range<usize>> {
    let (mut first, halves, least) = (0, 2 * threads(), LEAST_TASK_BYTES / size.row_bytes);
    let mut shares = Vec::new();
    while first < outs {
        let fair = (outs - first).div_ceil(halves).max(least).next_multiple_of(size.unit);
        // not more than the most, unless that is less than a unit
        let each = fair.min(size.most / size.unit * size.unit).max(size.unit);
        let end = outs.min(first + each);
        shares.push(first..end);
        first = end;
    }
    shares
}

/// The leader's calls of a round, for any thread.
#[derive(Clone, Copy)]
struct Work {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

struct Team {
    lead: Mutex<()>,
    gate: Gate,
    /// Written while nobody is inside, read by those who are.
    work: UnsafeCell<Option<Work>>,
    /// The next call that nobody has taken.
    next: AtomicUsize,
    /// What a helper's call panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    helpers: OnceLock<Vec<Thread>>,
}

// SAFETY: `work` is shared by the gate's rules; what it points to may be called by any thread
unsafe impl Sync for Team {}
// SAFETY: as above
unsafe impl Send for Team {}

impl Team {
    fn with_helpers(helpers: usize) -> Arc<Self> {
        let team = Arc::new(Self {
            lead: Mutex::new(()),
            gate: Gate(AtomicU64::new(0)),
            work: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            helpers: OnceLock::new(),
        });
        let spawn = |i| {
            let team = Arc::clone(&team);
            let helper = thread::Builder::new().name(format!("compute {i}"));
            match helper.spawn(move || team.help()) {
                Ok(helper) => Some(helper.thread().clone()),
                Err(error) => {
                    tracing::warn!(%error, "a thread that computes was not started; the others do its share");
                    None
                }
            }
        };
        let helpers = (1..=helpers).filter_map(spawn).collect();
        // nobody else sets it
        let _ = team.helpers.set(helpers);
        team
    }

    fn for_each(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let helpers = self.helpers.get().map_or(&[][..], Vec::as_slice);
        if helpers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(task);
        }
        let lead = self.lead.lock();
        // SAFETY: only the type's lifetime is widened; the round is over before this function is, and so before `task` ends
        let task =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        let work = Work { task, tasks };
        // SAFETY: the gate is shut and nobody inside, as the last leader left it, and no other leads
        unsafe { *self.work.get() = Some(work) };
        self.next.store(0, Ordering::Relaxed);
        self.gate.open();
        self.wake(helpers, tasks - 1);
        let own = catch_unwind(AssertUnwindSafe(|| self.take_part(work)));
        if own.is_err() {
            self.next.store(tasks, Ordering::Relaxed);
        }
        self.gate.shut();
        let helped = self.panic.lock().take();
        drop(lead);
        if let Some(panic) = own.err().or(helped) {
            resume_unwind(panic);
        }
    }

    /// Takes calls until there are none left.
    fn take_part(&self, work: Work) {
        let _at_work = AtWork::begin();
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= work.tasks {
                return;
            }
            // SAFETY: the leader keeps what it points to until nobody is inside, and we are
            unsafe { (*work.task)(i) };
        }
    }

    /// Wakes as many as have something to do, if any sleeps.
    fn wake(&self, helpers: &[Thread], tasks: usize) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            helpers.iter().take(tasks).for_each(Thread::unpark);
        }
    }

    /// The life of a helper.
    fn help(&self) -> ! {
        let mut last = 0;
        loop {
            last = self.look_out(last);
            if !self.gate.enter(last) {
                continue;
            }
            // SAFETY: we are inside, so it was written and is not written now
            if let Some(work) = unsafe { *self.work.get() }
                && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_part(work)))
            {
                self.next.store(work.tasks, Ordering::Relaxed);
                self.panic.lock().get_or_insert(panic);
            }
            self.gate.leave();
        }
    }

    /// Waits for a round that is open and not the last one that this thread saw; gives its number.
    fn look_out(&self, last: u64) -> u64 {
        let mut since = Instant::now();
        loop {
            for _ in 0..64 {
                if let Some(round) = self.gate.round_after(last) {
                    return round;
                }
                spin_loop();
            }
            // whoever has something to do on this core comes first
            thread::yield_now();
            if since.elapsed() > LOOKS_OUT {
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                // whoever opens a round from here on finds a sleeper
                if self.gate.round_after(last).is_none() {
                    thread::park();
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                since = Instant::now();
            }
        }
    }
}

/// A thread's time at work for a team.
struct AtWork {
    before: bool,
}

impl AtWork {
    fn begin() -> Self {
        Self { before: AT_WORK.replace(true) }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        AT_WORK.set(self.before);
    }
}

/// Who may work on a round: its number, whether it is open, and how many are inside.
struct Gate(AtomicU64);

impl Gate {
    const OPEN: u64 = 1 << 16;
    const ROUND: u64 = 1 << 17;

    /// Begins a round.
    fn open(&self) {
        self.0.fetch_add(Self::ROUND | Self::OPEN, Ordering::SeqCst);
    }

    /// Ends the round, and waits for those inside.
    fn shut(&self) {
        let mut state = self.0.fetch_and(!Self::OPEN, Ordering::AcqRel);
        let mut tries = 0_u32;
        while state & (Self::OPEN - 1) > 0 {
            if tries < 1 << 12 {
                spin_loop();
            } else {
                // one that was put aside by the system in the middle of its call needs this core more than we do
                thread::yield_now();
            }
            tries = tries.saturating_add(1);
            state = self.0.load(Ordering::Acquire);
        }
    }

    /// The number of the round that is open, unless it is `last`.
    fn round_after(&self, last: u64) -> Option<u64> {
        let state = self.0.load(Ordering::SeqCst);
        let round = state / Self::ROUND;
        (state & Self::OPEN > 0 && round != last).then_some(round)
    }

    /// Goes inside, unless the round is over.
    fn enter(&self, round: u64) -> bool {
        let may = |state: u64| (state & Self::OPEN > 0 && state / Self::ROUND == round).then_some(state + 1);
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, may).is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn counts(team: &Team, tasks: usize) -> Vec<usize> {
        let calls: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        team.for_each(tasks, &|i| {
            calls[i].fetch_add(1, Ordering::Relaxed);
        });
        calls.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn each_task_is_called_once_whoever_leads() {
        for helpers in [0, 1, 3] {
            let team = Team::with_helpers(helpers);
            thread::scope(|scope| {
                for leader in 0..3 {
                    let team = &team;
                    scope.spawn(move || {
                        for round in 0..400 {
                            let tasks = (round * 7 + leader) % 23;
                            assert_eq!(counts(team, tasks), vec![1; tasks]);
                        }
                    });
                }
            });
        }
    }

    /// Each task waits for the others, so that as many threads have to take part.
    #[test]
    fn helpers_take_part_also_after_they_slept() {
        let team = Team::with_helpers(2);
        for _ in 0..20 {
            thread::sleep(2 * LOOKS_OUT);
            let all = Barrier::new(3);
            team.for_each(3, &|_| {
                all.wait();
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_leader_and_the_team_goes_on() {
        let team = Team::with_helpers(2);
        let leader = thread::current().id();
        for leader_fails in [false, true] {
            let all = Barrier::new(3);
            let fails = |_: usize| {
                all.wait();
                assert!((thread::current().id() == leader) != leader_fails, "this one cannot");
            };
            let panic = catch_unwind(AssertUnwindSafe(|| team.for_each(3, &fails))).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"this one cannot"));
            assert_eq!(counts(&team, 30), [1; 30]);
        }
    }

    #[test]
    fn shares_are_all_outputs_in_order_and_get_smaller() {
        let size = TaskSize { most: 101, row_bytes: LEAST_TASK_BYTES / 9, unit: 4 };
        let shares = shares(1003, size);
        assert_eq!(shares.iter().cloned().flatten().collect::<Vec<_>>(), (0..1003).collect::<Vec<_>>());
        let sizes: Vec<usize> = shares.iter().map(Range::len).collect();
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
        assert!(sizes[..sizes.len() - 1].iter().all(|n| (12..=100).contains(n)), "{sizes:?}");
    }

    #[test]
    fn each_item_goes_to_one_task() {
        let mut numbers = vec![1; 1000];
        consume(numbers.chunks_mut(7).enumerate().collect(), |(i, part)| part.fill(i));
        let wanted: Vec<usize> = (0..1000).map(|n| n / 7).collect();
        assert_eq!(numbers, wanted);
    }

    #[test]
    fn what_a_task_shares_out_it_does_alone() {
        let calls = AtomicUsize::new(0);
        for_each(8, |_| {
            for_each(8, |_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(calls.into_inner(), 64);
    }
}
