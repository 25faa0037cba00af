//! Does a quantile of the canary's times exceed a multiple of stable's? A sequential test.
//!
//! An answer is slow if it takes longer than stable's quantile did so far; a canary's, if it takes longer than the
//! allowed multiple of that. If the canary takes exactly the multiple, the same share of both arms is slow, whatever the
//! time of day does to both and however well the quantile is known; if it takes less, fewer of the canary's are. So
//! 'within the limit' is 'no more slow ones than stable has', which [`PassRate`] tests, slow ones counted as failed. The
//! threshold changes only between strata and rests on earlier ones alone, so that it has no part in how the answers of a
//! stratum are split: the likelihood ratio stays a martingale.

use serde::{Deserialize, Serialize};

use super::guardrails::{LimitFinding, Standing};
use super::measured::shown;
use super::pass_rate::{PassRate, Snapshot, Terms};
use super::quantiles::Quantiles;
use super::table::Arm;
use super::verdict::{Verdict, percent};
use super::{Measured, Outcome, UserCell};
use crate::config::{TimeLimit, Timing};

/// Stable's answers beyond the quantile before there is a threshold: a rough one costs power, not alpha.
const BEYOND: f64 = 5.0;

#[derive(Debug, Clone)]
pub(super) struct TimeTest {
    timing: Timing,
    limit: TimeLimit,
    test: PassRate,
    times: Times,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Times {
    /// Stable's, of the strata that are closed.
    known: Quantiles,
    /// Stable's, of the open one.
    open: Quantiles,
    /// The canary's, to be told of.
    canary: Quantiles,
    /// Beyond which an answer of stable is slow, in seconds.
    threshold: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TimeSnapshot {
    test: Snapshot,
    times: Times,
}

impl TimeTest {
    pub(super) fn new(timing: Timing, limit: TimeLimit, alpha: f64, min_samples: u64) -> Self {
        Self { timing, limit, test: PassRate::new(terms(limit, alpha, min_samples)), times: Times::default() }
    }

    pub(super) fn snapshot(&self) -> TimeSnapshot {
        TimeSnapshot { test: self.test.snapshot(), times: self.times.clone() }
    }

    pub(super) fn resume(&mut self, snapshot: TimeSnapshot) {
        let TimeSnapshot { test, times } = snapshot;
        self.test = PassRate::resume(self.test.terms(), test);
        self.times = times;
    }

    pub(super) fn observe(&mut self, arm: Arm, user: UserCell, measured: &Measured) {
        let Some(seconds) = measured.seconds(self.timing) else { return };
        let allowed = match arm {
            Arm::Canary => self.limit.max_ratio.get(),
            Arm::Stable => 1.0,
        };
        if let Some(threshold) = self.times.threshold {
            let slow = seconds > threshold * allowed;
            self.test.observe(arm, user, if slow { Outcome::Failed } else { Outcome::Passed });
        }
        match arm {
            Arm::Canary => self.times.canary.add(seconds),
            Arm::Stable => self.times.open.add(seconds),
        }
    }

    pub(super) fn look(&mut self) {
        self.test.look();
        self.learn();
    }

    pub(super) fn cut(&mut self) {
        self.test.cut();
        self.learn();
    }

    /// Sets the threshold for the next stratum, if one begins.
    fn learn(&mut self) {
        if !self.test.is_between_strata() {
            return;
        }
        let Times { known, open, threshold, .. } = &mut self.times;
        known.merge(std::mem::take(open));
        let share = self.limit.quantile.get();
        if known.count() as f64 * (1.0 - share) >= BEYOND {
            *threshold = known.at(share);
        }
    }

    pub(super) fn finding(&self) -> LimitFinding {
        let found = self.test.finding();
        let standing = match found.verdict {
            Verdict::Abort => Standing::Breached,
            _ if found.canary.answers < found.terms.min_samples => Standing::Unknown,
            _ if found.evidence > 0.0 => Standing::Leaning,
            _ => Standing::Within,
        };
        LimitFinding {
            name: self.timing.as_str(),
            standing,
            canary: found.canary,
            stable: found.stable,
            brief: self.brief(),
            numbers: self.numbers(found.canary.answers, found.evidence),
        }
    }

    /// The canary's quantile and stable's.
    fn quantiles(&self) -> Option<(f64, f64)> {
        let share = self.limit.quantile.get();
        let mut stable = self.times.known.clone();
        stable.merge(self.times.open.clone());
        Some((self.times.canary.at(share)?, stable.at(share)?))
    }

    fn brief(&self) -> String {
        let limit = self.limit.max_ratio.get();
        self.quantiles().map_or_else(
            || format!("{} not known yet", self.timing),
            |(ours, theirs)| format!("{} {:.2} times stable's (at most {limit})", self.timing, ours / theirs),
        )
    }

    fn numbers(&self, answers: u64, evidence: f64) -> String {
        let TimeLimit { quantile, max_ratio } = self.limit;
        let (percent, limit) = (percent(quantile.get()), max_ratio.get());
        let Some((ours, theirs)) = self.quantiles() else { return "nothing was timed yet".to_owned() };
        format!(
            "{percent} % of the canary's answers took up to {}, of stable's over the same time up to {}: {:.2} times \
             as long, where {limit} times is allowed; that it is more than allowed is {} to 1, by {answers} canary \
             answers",
            shown(ours),
            shown(theirs),
            ours / theirs,
            odds(evidence),
        )
    }
}

/// The alternative is a share of slow answers of `p (1 + quantile)` where `p = 1 - quantile` is usual: at the 95th
/// percentile twice as many, at the median half as many again. There is no promotion: a power of 1 never decides for it.
fn terms(limit: TimeLimit, alpha: f64, min_samples: u64) -> Terms {
    let quantile = limit.quantile.get();
    Terms { margin: quantile * (1.0 - quantile), alpha, power: 1.0, min_samples }
}

/// Past a thousand million nobody asks how much.
fn odds(evidence: f64) -> String {
    if evidence > 1e9_f64.ln() { "over 1e9".to_owned() } else { super::verdict::show(evidence.exp()) }
}
