//! Answers of one user are alike: how many independent answers they are worth.
//!
//! A user stays on one version and asks about the same things, so his answers pass or fail together. The variance of an
//! arm's pass rate then exceeds that of as many independent answers by the design effect 1 + (m - 1) rho, where m is
//! the mean cluster size that an answer finds itself in and rho the intra-class correlation (Kish, Survey Sampling,
//! 1965; Rao and Scott, Biometrics 48, 1992). Here m is each arm's own, and rho is estimated over both, drawn towards a
//! usual one as long as little is known.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Outcome;
use super::table::Arm;

/// A user, as one of 2^20 cells that sticky keys are hashed to: what is kept of users has a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UserCell(u32);

impl UserCell {
    /// The cell of a user whose sticky key has this hash.
    pub const fn of(hash: u64) -> Self {
        Self((hash >> 44) as u32)
    }

    pub(in crate::release) const fn number(self) -> u32 {
        self.0
    }

    pub(super) const fn numbered(number: u32) -> Self {
        Self(number)
    }
}

/// What rho is taken for while nothing is known of it: where nothing has failed yet, or all that asks is one user, the
/// answers themselves do not tell how alike they are. One user then weighs 1 / 0.3 independent answers at most.
const USUAL_CORRELATION: f64 = 0.3;

/// How many pairs of answers that would agree if answers of a user always did speak as loud as the usual correlation.
const USUAL_PAIRS: f64 = 5.0;

/// Users of an arm that a snapshot names: those with the most answers, who weigh most.
pub(super) const NAMED: usize = 4096;

/// The clusters of both arms.
#[derive(Debug, Clone, Default)]
pub(super) struct Clusters {
    canary: ArmClusters,
    stable: ArmClusters,
}

/// Sums over an arm's users u, with n answers and f failures each.
#[derive(Debug, Clone, Default)]
struct ArmClusters {
    users: HashMap<UserCell, (u32, u32)>,
    /// Users that are in the sums, but were not named in the snapshot that this goes on from. One who comes back counts
    /// as new, which can only understate how alike answers are, and only for users with few of them.
    unnamed: usize,
    sums: Sums,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Sums {
    answers: f64,
    failures: f64,
    /// Sum of n^2.
    answers_squared: f64,
    /// Sum of n f.
    products: f64,
    /// Sum of f^2.
    failures_squared: f64,
}

/// Both arms, to be written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ClustersSnapshot {
    canary: ArmSnapshot,
    stable: ArmSnapshot,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ArmSnapshot {
    #[serde(flatten)]
    sums: Sums,
    unnamed: usize,
    /// Cell, answers and failures of each user that is named, in the order of the cells.
    users: Vec<(u32, u32, u32)>,
}

impl Clusters {
    pub(super) fn snapshot(&self) -> ClustersSnapshot {
        ClustersSnapshot { canary: self.canary.snapshot(), stable: self.stable.snapshot() }
    }

    pub(super) fn resume(snapshot: ClustersSnapshot) -> Self {
        let ClustersSnapshot { canary, stable } = snapshot;
        Self { canary: ArmClusters::resume(canary), stable: ArmClusters::resume(stable) }
    }

    pub(super) fn add(&mut self, arm: Arm, user: UserCell, outcome: Outcome) {
        match arm {
            Arm::Canary => self.canary.add(user, outcome),
            Arm::Stable => self.stable.add(user, outcome),
        }
    }

    /// Users that an arm has seen.
    pub(super) fn users(&self, arm: Arm) -> usize {
        match arm {
            Arm::Canary => self.canary.users(),
            Arm::Stable => self.stable.users(),
        }
    }

    /// By how much the variance of the difference of the arms' pass rates exceeds that of independent answers; at
    /// least 1, and exactly 1 where no user has two answers.
    pub(super) fn design_effect(&self) -> f64 {
        let arms = [&self.canary.sums, &self.stable.sums];
        if arms.iter().any(|arm| arm.answers == 0.0) {
            return 1.0;
        }
        let pairs: f64 = arms.iter().map(|arm| arm.agreeing_pairs()).sum();
        let expected: f64 = arms.iter().map(|arm| (arm.answers_squared - arm.answers) * arm.variance()).sum();
        let correlation = (pairs + USUAL_PAIRS * USUAL_CORRELATION) / (expected + USUAL_PAIRS);
        let correlation = correlation.clamp(0.0, 1.0);
        let inverse: f64 = arms.iter().map(|arm| 1.0 / arm.answers).sum();
        let inflated: f64 = arms.iter().map(|arm| arm.design_effect(correlation) / arm.answers).sum();
        inflated / inverse
    }
}

impl ArmClusters {
    fn add(&mut self, user: UserCell, outcome: Outcome) {
        let failed = u32::from(outcome == Outcome::Failed);
        let (n, f) = self.users.entry(user).or_default();
        let (before_n, before_f) = (f64::from(*n), f64::from(*f));
        *n += 1;
        *f += failed;
        let (n, f) = (f64::from(*n), f64::from(*f));
        self.sums.answers += 1.0;
        self.sums.failures += f64::from(failed);
        self.sums.answers_squared += n * n - before_n * before_n;
        self.sums.products += n * f - before_n * before_f;
        self.sums.failures_squared += f * f - before_f * before_f;
    }

    fn users(&self) -> usize {
        self.users.len() + self.unnamed
    }

    fn snapshot(&self) -> ArmSnapshot {
        let mut users: Vec<_> = self.users.iter().map(|(cell, (n, f))| (cell.0, *n, *f)).collect();
        if users.len() > NAMED {
            users.select_nth_unstable_by_key(NAMED, |(cell, n, _)| (Reverse(*n), *cell));
            users.truncate(NAMED);
        }
        users.sort_unstable();
        ArmSnapshot { sums: self.sums, unnamed: self.users() - users.len(), users }
    }

    fn resume(snapshot: ArmSnapshot) -> Self {
        let ArmSnapshot { sums, unnamed, users } = snapshot;
        let users = users.into_iter().map(|(cell, n, f)| (UserCell(cell), (n, f))).collect();
        Self { users, unnamed, sums }
    }
}

impl Sums {
    fn failure_rate(&self) -> f64 {
        self.failures / self.answers
    }

    /// Of one answer.
    fn variance(&self) -> f64 {
        self.failure_rate() * (1.0 - self.failure_rate())
    }

    /// The sum over all ordered pairs of two answers of one user of (x - p)(y - p): the squared residuals of the users
    /// less those of the single answers.
    fn agreeing_pairs(&self) -> f64 {
        let p = self.failure_rate();
        let of_users = self.failures_squared - 2.0 * p * self.products + p * p * self.answers_squared;
        of_users - self.answers * self.variance()
    }

    fn design_effect(&self, correlation: f64) -> f64 {
        1.0 + (self.answers_squared / self.answers - 1.0) * correlation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(failed: bool) -> Outcome {
        if failed { Outcome::Failed } else { Outcome::Passed }
    }

    #[test]
    fn single_answers_are_worth_one_each() {
        let mut clusters = Clusters::default();
        for user in 0..1000 {
            let arm = if user % 10 == 0 { Arm::Canary } else { Arm::Stable };
            clusters.add(arm, UserCell(user), outcome(user % 7 == 0));
        }
        assert!((clusters.design_effect() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn users_who_always_fail_or_always_pass_are_worth_one_answer_each() {
        let mut clusters = Clusters::default();
        for user in 0..1000 {
            let arm = if user % 10 == 0 { Arm::Canary } else { Arm::Stable };
            (0..8).for_each(|_| clusters.add(arm, UserCell(user), outcome(user % 7 == 0)));
        }
        assert!((clusters.design_effect() - 8.0).abs() < 0.05, "{}", clusters.design_effect());
    }

    #[test]
    fn where_nothing_is_known_of_users_they_are_taken_to_be_as_alike_as_usual() {
        for (canary_fails, stable_fails) in [(false, false), (true, false), (true, true)] {
            let mut clusters = Clusters::default();
            (0..91).for_each(|_| clusters.add(Arm::Canary, UserCell(0), outcome(canary_fails)));
            (1..9_000_001).step_by(100).for_each(|user| {
                clusters.add(Arm::Stable, UserCell(user), outcome(stable_fails));
            });
            let expected = 1.0 + 90.0 * USUAL_CORRELATION;
            let found = clusters.design_effect();
            assert!((found - expected).abs() < 0.1, "{found} and {expected}");
        }
    }

    #[test]
    fn what_is_known_of_users_outweighs_what_is_usual() {
        let mut clusters = Clusters::default();
        for user in 0..2000 {
            let arm = if user % 10 == 0 { Arm::Canary } else { Arm::Stable };
            // Which of his answers fails has nothing to do with him.
            (0..8).for_each(|i| clusters.add(arm, UserCell(user), outcome((user * 8 + i) * 7919 % 13 == 0)));
        }
        assert!(clusters.design_effect() < 1.1, "{}", clusters.design_effect());
    }

    #[test]
    fn a_snapshot_of_many_users_names_those_who_ask_most() {
        let mut clusters = Clusters::default();
        let many = NAMED as u32 + 1000;
        for user in 0..many {
            let answers = if user % 10 == 0 { 5 } else { 1 };
            (0..answers).for_each(|_| clusters.add(Arm::Canary, UserCell(user), outcome(user % 3 == 0)));
        }
        let snapshot = clusters.snapshot();
        assert_eq!((snapshot.canary.users.len(), snapshot.canary.unnamed), (NAMED, 1000));
        let mut resumed = Clusters::resume(snapshot);
        assert_eq!(resumed.users(Arm::Canary), many as usize);
        for user in (0..many).step_by(10) {
            clusters.add(Arm::Canary, UserCell(user), Outcome::Passed);
            resumed.add(Arm::Canary, UserCell(user), Outcome::Passed);
        }
        assert_eq!(resumed.canary.sums, clusters.canary.sums, "who asks most is known again");
    }

    #[test]
    fn one_user_who_asks_all_the_time_weighs_on_his_own_arm() {
        let of_whale_in = |arm: Arm| {
            let mut clusters = Clusters::default();
            for user in 0..1000_u32 {
                let arm = if user % 10 == 0 { Arm::Canary } else { Arm::Stable };
                (0..2).for_each(|_| clusters.add(arm, UserCell(user), outcome(user % 7 == 0)));
            }
            (0..200).for_each(|_| clusters.add(arm, UserCell(5000), Outcome::Passed));
            clusters.design_effect()
        };
        assert!(of_whale_in(Arm::Canary) > 3.0 * of_whale_in(Arm::Stable));
    }
}
