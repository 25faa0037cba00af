//! The device that several engines share, as far as it decides whose turn it is.
//!
//! Each step of a decode reads all weights for however few requests, so engines that all have requests slow each other
//! down. Where nothing else is said, they share the device's time in proportion to the square roots of the numbers of
//! their requests: with `n` requests and a share `x`, the time between two tokens of a client goes as `1 / x`, and the mean
//! over all clients, `Σ n / x`, is least where `x ∝ √n` (by Lagrange's rule under `Σ x = 1`). While times of versions are
//! compared, none is held up for another. Nobody waits for an engine that has nothing to do.
//!
//! Work in the background, such as the copy of a request that nobody waits for, runs only while no engine of the device
//! has work in the foreground, and for no more than a share of the time. It is done in short steps, so that a request
//! that comes in meanwhile waits for less than one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::ids::Weight;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// A client.
    #[default]
    Foreground,
    /// Nobody: it may be late, and it may be dropped.
    Background,
}

/// How engines that all have requests in the foreground share a device's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interleave {
    /// For the least mean time between tokens, over all clients.
    ByDemand,
    /// As the device takes their steps: a client's pace does not depend on how many others his version has.
    Evenly,
}

/// Whose turn it is on one device. Clones are the same device's; every engine on it holds one.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Requests in the foreground of all engines, those that wait included.
    foreground: AtomicUsize,
    /// Whether an engine has its turn in the background.
    taken: AtomicBool,
    /// Microseconds after `born` before which nobody else has one.
    rests_until: AtomicU64,
    /// Microseconds spent in the background so far.
    spent: AtomicU64,
    share: Weight,
    born: Instant,
    /// Whether no engine is held up for another.
    evenly: AtomicBool,
    /// Those of the engines that are there.
    paces: ArcSwap<Vec<Arc<Pace>>>,
}

/// What the others know of an engine's steps in the foreground.
#[derive(Debug, Default)]
struct Pace {
    /// Its requests, while it can go on with them.
    demand: AtomicUsize,
    /// The time that it took so far, each step's divided by the square root of the demand.
    spent: AtomicU64,
}

impl Turns {
    /// Of a device that gives the background at most this share of its time.
    pub fn new(background: Weight) -> Self {
        Self(Arc::new(Inner {
            foreground: AtomicUsize::new(0),
            taken: AtomicBool::new(false),
            rests_until: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            share: background,
            born: Instant::now(),
            evenly: AtomicBool::new(false),
            paces: ArcSwap::default(),
        }))
    }

    /// Says how engines share the device from now on; at first it is by demand.
    pub fn interleave(&self, how: Interleave) {
        self.0.evenly.store(how == Interleave::Evenly, Ordering::Relaxed);
    }

    /// A place for an engine.
    pub(super) fn runner(&self) -> Runner {
        let pace = Arc::new(Pace::default());
        self.0.paces.rcu(|paces| paces.iter().chain([&pace]).cloned().collect::<Vec<_>>());
        Runner { turns: self.clone(), pace, cost: 0, held_up: None }
    }

    /// The time that steps in the background took so far.
    pub fn background_time(&self) -> Duration {
        Duration::from_micros(self.0.spent.load(Ordering::Relaxed))
    }

    /// Whether nothing in the foreground is under way or waits.
    pub fn is_idle(&self) -> bool {
        self.0.foreground.load(Ordering::SeqCst) == 0
    }

    /// Says that a request is there until what is given back is dropped.
    pub(super) fn enter(&self, priority: Priority) -> Option<Presence> {
        match priority {
            Priority::Background => None,
            Priority::Foreground => {
                self.0.foreground.fetch_add(1, Ordering::SeqCst);
                Some(Presence(self.clone()))
            }
        }
    }

    /// A turn for one step in the background, unless somebody waits in the foreground, another engine has the turn, or
    /// the background has had its share.
    pub(super) fn background_turn(&self) -> Option<Turn> {
        let Inner { taken, rests_until, share, .. } = &*self.0;
        if !self.is_idle() || *share == Weight::ZERO || self.now() < rests_until.load(Ordering::Acquire) {
            return None;
        }
        taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).ok()?;
        Some(Turn { turns: self.clone(), began: Instant::now() })
    }

    fn now(&self) -> u64 {
        self.0.born.elapsed().as_micros() as u64
    }
}

/// All of the time that the foreground leaves.
impl Default for Turns {
    fn default() -> Self {
        Self::new(Weight::FULL)
    }
}

/// An engine's place on a device.
#[derive(Debug)]
pub(super) struct Runner {
    turns: Turns,
    pace: Arc<Pace>,
    /// Of its last step.
    cost: u64,
    /// Since when it is held up for others, and how far the slowest of them was then.
    held_up: Option<(Instant, u64)>,
}

/// So long an engine is held up at most for one that does not get on: it may be stuck, or in a long step.
const MOST_HELD_UP: Duration = Duration::from_millis(250);

/// Fractions of a microsecond that are counted.
const FINE: f64 = 256.0;

impl Runner {
    /// Whether an engine with so many requests in the foreground may take a step; if not, it asks again soon.
    pub(super) fn may_step(&mut self, demand: usize) -> bool {
        let rested = self.pace.demand.swap(demand, Ordering::Relaxed) == 0;
        let paces = self.turns.0.paces.load();
        let others = paces.iter().filter(|pace| !Arc::ptr_eq(pace, &self.pace));
        let active = others.filter(|pace| pace.demand.load(Ordering::Relaxed) > 0);
        let Some(least) = active.map(|pace| pace.spent.load(Ordering::Relaxed)).min() else {
            self.held_up = None;
            return true;
        };
        // One step ahead of the slowest: where they are equal, each computes while the other looks what comes next.
        let most = least + self.cost;
        let evenly = self.turns.0.evenly.load(Ordering::Relaxed);
        if rested || evenly {
            // What it did not use while it rested is not saved up, and what it took while nobody was there, or nobody was
            // held up, is not held against it. Only its own engine writes it.
            let spent = self.pace.spent.load(Ordering::Relaxed).clamp(least, most);
            self.pace.spent.store(spent, Ordering::Relaxed);
        }
        if self.pace.spent.load(Ordering::Relaxed) <= most {
            self.held_up = None;
            return true;
        }
        match self.held_up {
            // once it has waited so long for one that stands still, it goes on until that one moves
            Some((since, then)) if then == least => since.elapsed() > MOST_HELD_UP,
            _ => {
                self.held_up = Some((Instant::now(), least));
                false
            }
        }
    }

    /// Notes a step in the foreground that took so long.
    pub(super) fn stepped(&mut self, took: Duration) {
        let demand = self.pace.demand.load(Ordering::Relaxed).max(1);
        self.cost = (took.as_micros() as f64 * FINE / (demand as f64).sqrt()) as u64;
        self.pace.spent.fetch_add(self.cost, Ordering::Relaxed);
    }

    /// Says that it has nothing to do, or cannot go on: nobody is held up for it.
    pub(super) fn rest(&mut self) {
        self.pace.demand.store(0, Ordering::Relaxed);
        self.held_up = None;
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.turns.0.paces.rcu(|paces| {
            paces.iter().filter(|pace| !Arc::ptr_eq(pace, &self.pace)).cloned().collect::<Vec<_>>()
        });
    }
}

/// A request in the foreground.
#[derive(Debug)]
pub(super) struct Presence(Turns);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.0.foreground.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One step in the background. When it is over, the background rests for as long as its share asks.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    began: Instant,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Inner { taken, rests_until, spent, share, .. } = &*self.turns.0;
        let worked = self.began.elapsed().as_micros() as u64;
        let share = u64::from(share.basis_points().max(1));
        let rest = worked * (u64::from(Weight::FULL.basis_points()) - share) / share;
        spent.fetch_add(worked, Ordering::Relaxed);
        rests_until.store(self.turns.now() + rest, Ordering::Release);
        taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_has_its_turn_only_while_nobody_waits() {
        let turns = Turns::default();
        let waits = turns.enter(Priority::Foreground);
        assert!(turns.background_turn().is_none());
        drop(waits);
        assert!(turns.enter(Priority::Background).is_none(), "it is no reason to wait");
        let turn = turns.background_turn().unwrap();
        assert!(turns.background_turn().is_none(), "one at a time");
        drop(turn);
        assert!(turns.background_turn().is_some());
    }

    /// A step of 10 ms, if the engine may take one; whether it did.
    fn step(runner: &mut Runner, requests: usize) -> bool {
        let may = runner.may_step(requests);
        if may {
            runner.stepped(Duration::from_millis(10));
        }
        may
    }

    /// Steps of two engines that both have requests all the time, a step of the device at a time.
    fn steps(turns: &Turns, requests: [usize; 2], rounds: usize) -> [usize; 2] {
        let (mut runners, mut steps) = ([turns.runner(), turns.runner()], [0, 0]);
        for round in 0..rounds {
            let i = round % 2;
            steps[i] += usize::from(step(&mut runners[i], requests[i]));
        }
        steps
    }

    #[test]
    fn engines_share_a_device_by_the_square_roots_of_what_they_have() {
        let turns = Turns::default();
        let ratio = |requests| {
            let [a, b] = steps(&turns, requests, 10_000);
            a as f64 / b as f64
        };
        for (requests, wanted) in [([1, 1], 1.0), ([64, 4], 4.0), ([9, 100], 0.3), ([95, 5], 19_f64.sqrt())] {
            let found = ratio(requests);
            assert!((found / wanted - 1.0).abs() < 0.02, "{requests:?}: {found}");
        }
        turns.interleave(Interleave::Evenly);
        assert_eq!(steps(&turns, [64, 4], 100), [50, 50]);
    }

    #[test]
    fn nobody_waits_for_an_engine_that_rests_or_is_gone_and_rest_is_not_saved_up() {
        let turns = Turns::default();
        let (mut busy, mut other) = (turns.runner(), turns.runner());
        assert!((0..100).all(|_| step(&mut busy, 4)), "it is alone with what there is to do");
        assert_eq!((0..9).filter(|_| step(&mut other, 4)).count(), 2, "it begins where the other is");
        assert!(step(&mut busy, 4));
        other.rest();
        assert!((0..100).all(|_| step(&mut busy, 4)));
        assert!(step(&mut other, 4));
        drop(other);
        assert!((0..100).all(|_| step(&mut busy, 4)));
    }

    #[test]
    fn what_was_taken_while_nobody_was_held_up_is_not_held_against_an_engine() {
        let turns = Turns::default();
        let (mut one, mut other) = (turns.runner(), turns.runner());
        assert!((0..1000).all(|_| step(&mut one, 4)));
        one.rest();
        assert!(step(&mut other, 4), "it is alone now");
        let by_turns = |one: &mut Runner, other: &mut Runner| {
            (0..100).filter(|_| step(one, 4)).count().min((0..100).filter(|_| step(other, 4)).count())
        };
        assert!(by_turns(&mut one, &mut other) > 0, "the one that comes back begins where the other is");

        turns.interleave(Interleave::Evenly);
        for _ in 0..1000 {
            assert!(step(&mut one, 100) && step(&mut other, 1));
        }
        turns.interleave(Interleave::ByDemand);
        let [mut ones, mut others] = [0, 0];
        for _ in 0..1000 {
            ones += usize::from(step(&mut one, 4));
            others += usize::from(step(&mut other, 4));
        }
        assert!(ones > 990 && others > 970, "{ones} and {others}: equal demand, and no old debts");
    }

    #[test]
    fn one_that_stands_still_holds_nobody_up_for_long() {
        let turns = Turns::default();
        let (mut busy, mut stuck) = (turns.runner(), turns.runner());
        assert!(stuck.may_step(4) && busy.may_step(4));
        let began = Instant::now();
        let mut steps = 0;
        while steps < 100 {
            assert!(began.elapsed() < Duration::from_secs(30));
            steps += usize::from(step(&mut busy, 4));
        }
        assert!(began.elapsed() >= MOST_HELD_UP, "it was given its chance");
        assert!(began.elapsed() < 4 * MOST_HELD_UP, "once, not before each step");
    }

    #[test]
    fn the_background_rests_as_its_share_asks() {
        let turns = Turns::new(Weight::from_percent(0.01).unwrap());
        let turn = turns.background_turn().unwrap();
        while turn.began.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        drop(turn);
        assert!(turns.background_turn().is_none(), "20 seconds to rest");
        assert!(turns.background_time() >= Duration::from_millis(2));
        assert!(Turns::new(Weight::ZERO).background_turn().is_none());
    }
}
