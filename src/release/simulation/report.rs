//! Many runs in a few numbers.

use serde::Serialize;

use super::run::Ended;
use crate::release::analysis::Verdict;

/// How one run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) verdict: Verdict,
    /// From 1: the end of the first minute.
    pub(super) minute: usize,
    /// Users whom the canary had answered by then.
    pub(super) users_exposed: usize,
}

/// Shares of all runs, and medians over those that ended so.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decisions {
    /// The share that was aborted.
    pub abort: f64,
    /// The share that was promoted.
    pub promote: f64,
    /// The share whose traffic did not suffice to tell.
    pub inconclusive: f64,
    /// Until an abort; none where there was none.
    pub median_minutes_to_abort: Option<usize>,
    /// Until a promotion.
    pub median_minutes_to_promote: Option<usize>,
    /// The mean number of users whom the canary had answered by the decision.
    pub users_exposed: f64,
    /// Of all runs, the share that had been aborted by the end of each minute, from the first.
    #[serde(skip)]
    pub aborted_by_minute: Vec<f64>,
    /// The same for promotions.
    #[serde(skip)]
    pub promoted_by_minute: Vec<f64>,
}

/// What a simulation found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// By the sequential analysis.
    #[serde(flatten)]
    pub analysis: Decisions,
    /// By the rule that looks at a threshold.
    pub threshold_rule: Decisions,
    /// How many runs there were.
    pub runs: usize,
}

impl Report {
    pub(super) fn of(ended: &[Ended]) -> Self {
        Self {
            analysis: Decisions::of(ended.iter().map(|run| run.analysis)),
            threshold_rule: Decisions::of(ended.iter().map(|run| run.threshold)),
            runs: ended.len(),
        }
    }
}

impl Decisions {
    fn of(decisions: impl Iterator<Item = Decision>) -> Self {
        let all: Vec<Decision> = decisions.collect();
        let runs = all.len().max(1) as f64;
        let minutes_of = |verdict: Verdict| {
            let ended = all.iter().filter(|decision| decision.verdict == verdict);
            let mut minutes: Vec<usize> = ended.map(|decision| decision.minute).collect();
            minutes.sort_unstable();
            minutes
        };
        let last = all.iter().map(|decision| decision.minute).max().unwrap_or(0);
        let by_minute = |minutes: &[usize]| {
            (1..=last).map(|minute| minutes.partition_point(|m| *m <= minute) as f64 / runs).collect()
        };
        let (aborted, promoted) = (minutes_of(Verdict::Abort), minutes_of(Verdict::Promote));
        let undecided = all.len() - aborted.len() - promoted.len();
        Self {
            abort: aborted.len() as f64 / runs,
            promote: promoted.len() as f64 / runs,
            inconclusive: undecided as f64 / runs,
            median_minutes_to_abort: median(&aborted),
            median_minutes_to_promote: median(&promoted),
            users_exposed: all.iter().map(|decision| decision.users_exposed as f64).sum::<f64>() / runs,
            aborted_by_minute: by_minute(&aborted),
            promoted_by_minute: by_minute(&promoted),
        }
    }
}

/// The lower median of what is sorted.
fn median(sorted: &[usize]) -> Option<usize> {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}
