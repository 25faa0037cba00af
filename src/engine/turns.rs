//! The device that several engines share, as far as it decides whose turn it is.
//!
//! Work in the background, such as the copy of a request that nobody waits for, runs only while no engine of the device
//! has work in the foreground, and for no more than a share of the time. It is done in short steps, so that a request
//! that comes in meanwhile waits for less than one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::ids::Weight;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// A client.
    #[default]
    Foreground,
    /// Nobody: it may be late, and it may be dropped.
    Background,
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
        }))
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
