//! Many runs in a few numbers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::run::{Ended, Guards};
use crate::release::analysis::Verdict;

/// How one run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) verdict: Verdict,
    /// From 1: the end of the first minute.
    pub(super) minute: usize,
    /// By when there was the evidence that a promotion rests on.
    pub(super) proven: Option<usize>,
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
    /// Until a promotion: it waits for the end of the steps, unless the policy promotes early.
    pub median_minutes_to_promote: Option<usize>,
    /// Until there was the evidence that a promotion rests on, for good.
    pub median_minutes_to_evidence: Option<usize>,
    /// The mean number of users whom the canary had answered by the decision.
    pub users_exposed: f64,
    /// Of all runs, the share that had been aborted by the end of each minute, from the first.
    #[serde(skip)]
    pub aborted_by_minute: Vec<f64>,
    /// The same for the evidence that promotions rest on.
    #[serde(skip)]
    pub proven_by_minute: Vec<f64>,
}

/// What a simulation found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// By the sequential analysis.
    #[serde(flatten)]
    pub analysis: Decisions,
    /// By the rule that looks at a threshold.
    pub threshold_rule: Decisions,
    /// By the guardrails, where they were played too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guardrails: Option<Breaches>,
    /// How many runs there were.
    pub runs: usize,
}

/// How often guardrails were breached, whatever the checks said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Breaches {
    /// The share of all runs in which any was.
    pub abort: f64,
    /// Until the first was; none where none was.
    pub median_minutes_to_abort: Option<usize>,
    /// The share of all runs in which this one was.
    pub by_guardrail: BTreeMap<&'static str, f64>,
}

impl Report {
    pub(super) fn of(ended: &[Ended]) -> Self {
        Self {
            analysis: Decisions::of(ended.iter().map(|run| run.analysis)),
            threshold_rule: Decisions::of(ended.iter().map(|run| run.threshold)),
            guardrails: Breaches::of(ended),
            runs: ended.len(),
        }
    }
}

impl Breaches {
    fn of(ended: &[Ended]) -> Option<Self> {
        let played: Vec<&Guards> = ended.iter().map(|run| run.guardrails.as_ref()).collect::<Option<_>>()?;
        let runs = played.len().max(1) as f64;
        let breached = played.iter().filter(|guards| !guards.breached.is_empty());
        let mut minutes: Vec<usize> = breached.map(|guards| guards.minute).collect();
        minutes.sort_unstable();
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        for name in played.iter().flat_map(|guards| &guards.breached) {
            *counts.entry(*name).or_default() += 1;
        }
        let by_guardrail = counts.into_iter().map(|(name, count)| (name, count as f64 / runs)).collect();
        let abort = minutes.len() as f64 / runs;
        Some(Self { abort, median_minutes_to_abort: median(&minutes), by_guardrail })
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
        let promotions = all.iter().filter(|decision| decision.verdict == Verdict::Promote);
        let mut proven: Vec<usize> =
            promotions.map(|decision| decision.proven.unwrap_or(decision.minute)).collect();
        proven.sort_unstable();
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
            median_minutes_to_evidence: median(&proven),
            users_exposed: all.iter().map(|decision| decision.users_exposed as f64).sum::<f64>() / runs,
            aborted_by_minute: by_minute(&aborted),
            proven_by_minute: by_minute(&proven),
        }
    }
}

/// The lower median of what is sorted.
fn median(sorted: &[usize]) -> Option<usize> {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}
