//! Two arms over the same stretch of time, as a 2x2 table: answers and failures of canary and of stable.

use serde::{Deserialize, Serialize};

use super::Outcome;

/// Which version an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arm {
    /// The version that serves, and that the canary is compared with.
    Stable,
    /// The version that is being tried.
    Canary,
}

/// Answers of one arm, and how many of them failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// All answers.
    pub answers: u64,
    /// Those that failed.
    pub failures: u64,
}

impl Counts {
    pub(super) fn add(&mut self, outcome: Outcome) {
        self.answers += 1;
        self.failures += u64::from(outcome == Outcome::Failed);
    }

    /// The share that passed; 1 where there are no answers.
    pub fn pass_rate(self) -> f64 {
        if self.answers == 0 { 1.0 } else { 1.0 - self.failures as f64 / self.answers as f64 }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.answers += other.answers;
        self.failures += other.failures;
    }
}

/// Both arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) canary: Counts,
    pub(super) stable: Counts,
}

impl Table {
    pub(super) fn of(&mut self, arm: Arm) -> &mut Counts {
        match arm {
            Arm::Canary => &mut self.canary,
            Arm::Stable => &mut self.stable,
        }
    }

    /// The logarithm of how much likelier the canary's failures are if its odds of failing are `exp(log_odds_ratio)`
    /// times stable's than if they are the same, given how many answers each arm has and how many failed in all.
    ///
    /// Given those margins, the canary's failures have Fisher's noncentral hypergeometric distribution, which depends on
    /// the odds ratio alone: whatever the pass rate is at this time of day, it cancels out. A table in which one arm is
    /// empty says nothing: 0.
    pub(super) fn log_likelihood_ratio(&self, log_odds_ratio: f64) -> f64 {
        let (canary, stable) = (self.canary.answers, self.stable.answers);
        let failures = self.canary.failures + self.stable.failures;
        let (least, most) = (failures.saturating_sub(stable), failures.min(canary));
        let (mut same, mut other) = (LogSum::default(), LogSum::default());
        // The weight of each possible count of canary failures, as its ratio to the weight of the least.
        let mut log_weight = 0.0;
        for count in least..=most {
            same.add(log_weight);
            other.add(log_weight + log_odds_ratio * (count - least) as f64);
            // (failures - k)(canary - k) / ((k + 1)(stable - failures + k + 1))
            let up = (failures - count) as f64 * (canary - count) as f64;
            let down = (count + 1) as f64 * (stable + count + 1).saturating_sub(failures) as f64;
            log_weight += (up / down).ln();
        }
        log_odds_ratio * (self.canary.failures - least) as f64 - other.value() + same.value()
    }
}

/// A sum of exponentials that does not overflow.
struct LogSum {
    max: f64,
    sum: f64,
}

impl Default for LogSum {
    fn default() -> Self {
        Self { max: f64::NEG_INFINITY, sum: 0.0 }
    }
}

impl LogSum {
    fn add(&mut self, log: f64) {
        if log <= self.max {
            self.sum += (log - self.max).exp();
        } else {
            self.sum = self.sum * (self.max - log).exp() + 1.0;
            self.max = log;
        }
    }

    fn value(&self) -> f64 {
        self.max + self.sum.ln()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(canary: (u64, u64), stable: (u64, u64)) -> Table {
        let counts = |(answers, failures)| Counts { answers, failures };
        Table { canary: counts(canary), stable: counts(stable) }
    }

    fn choose(n: u64, k: u64) -> f64 {
        (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
    }

    /// The same from the definition, for small tables.
    fn slow(table: &Table, log_odds_ratio: f64) -> f64 {
        let failures = table.canary.failures + table.stable.failures;
        let (canary, stable) = (table.canary.answers, table.stable.answers);
        let weight =
            |k: u64, odds: f64| choose(canary, k) * choose(stable, failures - k) * odds.powi(k as i32);
        let chance = |odds: f64| {
            let all: f64 =
                (failures.saturating_sub(stable)..=failures.min(canary)).map(|k| weight(k, odds)).sum();
            weight(table.canary.failures, odds) / all
        };
        (chance(log_odds_ratio.exp()) / chance(1.0)).ln()
    }

    #[test]
    fn an_empty_arm_and_no_failures_say_what_they_can() {
        assert!(table((0, 0), (10, 3)).log_likelihood_ratio(0.5).abs() < 1e-12);
        assert!(table((10, 3), (0, 0)).log_likelihood_ratio(0.5).abs() < 1e-12);
        assert!(table((10, 0), (10, 0)).log_likelihood_ratio(0.5).abs() < 1e-12);
        assert!(table((1, 1), (1_000_000, 80_000)).log_likelihood_ratio(0.5) > 0.4);
    }

    proptest! {
        #[test]
        fn it_is_what_the_definition_says(
            canary in 0..30_u64, stable in 0..30_u64, a in 0.0..1.0_f64, b in 0.0..1.0_f64, log_odds in -2.0..2.0_f64
        ) {
            let failed = |n: u64, share: f64| (n as f64 * share).round() as u64;
            let table = table((canary, failed(canary, a)), (stable, failed(stable, b)));
            let (fast, slow) = (table.log_likelihood_ratio(log_odds), slow(&table, log_odds));
            prop_assert!((fast - slow).abs() < 1e-9, "{fast} and {slow}");
        }

        /// The reason why alpha holds: if nothing is wrong, the expected likelihood ratio is 1.
        #[test]
        fn without_a_drop_the_expected_ratio_is_one(
            canary in 1..20_u64, stable in 1..20_u64, share in 0.0..1.0_f64, log_odds in 0.0..2.0_f64
        ) {
            let failures = ((canary + stable) as f64 * share).round() as u64;
            let expected: f64 = (failures.saturating_sub(stable)..=failures.min(canary))
                .map(|k| {
                    let chance = choose(canary, k) * choose(stable, failures - k) / choose(canary + stable, failures);
                    chance * table((canary, k), (stable, failures - k)).log_likelihood_ratio(log_odds).exp()
                })
                .sum();
            prop_assert!((expected - 1.0).abs() < 1e-9, "{expected}");
        }
    }
}
