//! Synthetic users: they come at random, ask some times, and are answered well or badly.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rand_distr::{Beta, Distribution, Poisson};

use super::schedule::Minute;
use crate::release::BUCKETS;
use crate::release::analysis::{Arm, Outcome, UserCell};

/// The traffic of a simulation. Shares are from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// Requests a minute, both arms together.
    pub rate: f64,
    /// Stable's pass rate.
    pub stable: f64,
    /// How much lower the canary's is.
    pub drop: f64,
    /// How much both fall over the whole time.
    pub drift: f64,
    /// Requests of one user.
    pub requests_per_user: u32,
    /// How alike one user's answers are: the intra-class correlation.
    pub icc: f64,
}

/// One request's answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) arm: Arm,
    pub(super) user: UserCell,
    pub(super) outcome: Outcome,
}

/// A user with the chances that his answers pass.
#[derive(Debug, Clone, Copy)]
struct User {
    key: u64,
    stable: f64,
    canary: f64,
    left: u32,
}

/// The users that are about, and who comes next.
pub(super) struct Crowd<'t> {
    traffic: &'t Traffic,
    arrivals: Poisson<f64>,
    /// Chances of stable and of canary, where users differ.
    chances: Option<(Beta<f64>, Beta<f64>)>,
    users: Vec<User>,
    random: ChaCha8Rng,
}

impl Traffic {
    /// What makes no sense, and what would.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: f64, least: f64, most: f64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("{name} of {value} cannot be: give {least} to {most}"))
            }
        };
        within("rate", self.rate, 0.01, 100_000.0)?;
        within("stable", self.stable, 0.001, 0.999)?;
        within("drop", self.drop, self.stable - 0.999, self.stable - 0.001)?;
        within("drift", self.drift, 0.0, (self.stable - self.drop.max(0.0)).max(0.0))?;
        within("icc", self.icc, 0.0, 0.99)?;
        within("users-requests", f64::from(self.requests_per_user), 1.0, 100_000.0)
    }
}

impl<'t> Crowd<'t> {
    /// As many users are about at once as ask in a minute. At the start each has a random part of his requests behind
    /// him, so that the first minute is like any other. `None` where the traffic makes no sense.
    pub(super) fn new(traffic: &'t Traffic, random: ChaCha8Rng) -> Option<Self> {
        // A beta distribution of mean p with a + b = 1 / icc - 1 gives two answers of one user the correlation icc.
        let beta = |mean: f64| {
            let both = 1.0 / traffic.icc - 1.0;
            Beta::new(mean * both, (1.0 - mean) * both).ok()
        };
        let chances = match traffic.icc {
            icc if icc > 0.0 => Some((beta(traffic.stable)?, beta(traffic.stable - traffic.drop)?)),
            _ => None,
        };
        let arrivals = Poisson::new(traffic.rate).ok()?;
        let mut crowd = Self { traffic, arrivals, chances, users: Vec::new(), random };
        for _ in 0..(traffic.rate as usize).max(1) {
            let mut user = crowd.newcomer();
            user.left = 1 + (crowd.random.next_u64() % u64::from(traffic.requests_per_user)) as u32;
            crowd.users.push(user);
        }
        Some(crowd)
    }

    fn newcomer(&mut self) -> User {
        let Traffic { stable, drop, requests_per_user, .. } = *self.traffic;
        let (stable, canary) = match &self.chances {
            Some((of_stable, of_canary)) => {
                (of_stable.sample(&mut self.random), of_canary.sample(&mut self.random))
            }
            None => (stable, stable - drop),
        };
        User { key: self.random.next_u64(), stable, canary, left: requests_per_user }
    }

    /// The answers of one minute; `passed` of the whole time is over, from 0 to 1.
    pub(super) fn minute(&mut self, minute: Minute, passed: f64, mut answer: impl FnMut(Answer)) {
        let requests = self.arrivals.sample(&mut self.random) as usize;
        let fallen = self.traffic.drift * passed;
        for _ in 0..requests {
            let i = (self.random.next_u64() % self.users.len() as u64) as usize;
            let user = self.users[i];
            // As in the route: a canary's share is an end of the circle, and a smaller one lies within a larger.
            let bucket = (user.key % u64::from(BUCKETS)) as u16;
            let canary = (Arm::Canary, user.canary);
            let (arm, chance) =
                if bucket < minute.weight.basis_points() { canary } else { (Arm::Stable, user.stable) };
            let mut ask = |random: &mut ChaCha8Rng, (arm, chance): (Arm, f64)| {
                let passes = uniform(random) < chance - fallen;
                let outcome = if passes { Outcome::Passed } else { Outcome::Failed };
                answer(Answer { arm, user: UserCell::of(user.key), outcome });
            };
            ask(&mut self.random, (arm, chance));
            let share = minute.mirror.percent() / 100.0;
            if share > 0.0 && uniform(&mut self.random) < share {
                ask(&mut self.random, canary);
            }
            self.users[i].left -= 1;
            if self.users[i].left == 0 {
                self.users[i] = self.newcomer();
            }
        }
    }
}

/// From 0 up to but not with 1.
fn uniform(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}
