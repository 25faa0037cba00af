//! Are the canary's answers longer or shorter than allowed? A confidence sequence of the ratio of the mean lengths.

use serde::{Deserialize, Serialize};

use super::confidence::{ConfidenceSequence, Estimate, Interval};
use super::contrast::{Contrast, ContrastSnapshot, LEAST_USERS, Scale};
use super::guardrails::{LimitFinding, Standing};
use super::measured::rounding;
use super::table::{Arm, Counts};
use super::verdict::percent;
use super::{Measured, UserCell};
use crate::config::RelativeChange;

#[derive(Debug, Clone)]
pub(super) struct LengthTest {
    limit: RelativeChange,
    min_samples: u64,
    sequence: ConfidenceSequence,
    contrast: Contrast,
    /// The interval that was beyond the limit when it was seen first; it stays.
    breach: Option<Breach>,
}

/// What was known of the logarithm of the ratio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Breach {
    value: f64,
    low: f64,
    high: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LengthSnapshot {
    contrast: ContrastSnapshot,
    breach: Option<Breach>,
}

impl LengthTest {
    /// Tightest about where it can tell the limit from no change.
    pub(super) fn new(limit: RelativeChange, alpha: f64, min_samples: u64) -> Self {
        let sequence = ConfidenceSequence::tightest_at(limit.share().ln_1p(), alpha);
        Self { limit, min_samples, sequence, contrast: Contrast::new(Scale::LogRatio), breach: None }
    }

    pub(super) fn snapshot(&self) -> LengthSnapshot {
        LengthSnapshot { contrast: self.contrast.snapshot(), breach: self.breach }
    }

    pub(super) fn resume(&mut self, snapshot: LengthSnapshot) {
        self.contrast = Contrast::resume(Scale::LogRatio, snapshot.contrast);
        self.breach = snapshot.breach;
    }

    pub(super) fn observe(&mut self, arm: Arm, user: UserCell, measured: &Measured) {
        if let Some(tokens) = measured.output_tokens {
            self.contrast.observe(arm, user, tokens as f64);
        }
    }

    pub(super) fn look(&mut self) {
        if self.breach.is_some() {
            return;
        }
        let Some(estimate) = self.estimate() else { return };
        let Interval { low, high } = self.sequence.interval(estimate);
        let allowed = self.allowed();
        if low > allowed.high || high < allowed.low {
            self.breach = Some(Breach { value: estimate.value, low, high });
        }
    }

    pub(super) fn cut(&mut self) {
        self.contrast.cut();
    }

    /// What is allowed, as logarithms of ratios. A fall of 100 % or more is no limit.
    fn allowed(&self) -> Interval {
        let share = self.limit.share();
        let low = if share < 1.0 { (-share).ln_1p() } else { f64::NEG_INFINITY };
        Interval { low, high: share.ln_1p() }
    }

    /// The logarithm of the ratio, once there is enough to say something.
    fn estimate(&self) -> Option<Estimate> {
        let users = |arm| self.contrast.users(arm);
        let (ours, theirs) = (self.contrast.mean(Arm::Canary), self.contrast.mean(Arm::Stable));
        let few = ours.answers < self.min_samples || users(Arm::Canary).min(users(Arm::Stable)) < LEAST_USERS;
        let estimate = self.contrast.estimate().filter(|_| !few)?;
        let rounded = rounding(ours.mean(), users(Arm::Canary)) + rounding(theirs.mean(), users(Arm::Stable));
        Some(Estimate { variance: estimate.variance + rounded, ..estimate })
    }

    pub(super) fn finding(&self) -> LimitFinding {
        let counts = |arm| Counts { answers: self.contrast.mean(arm).answers, failures: 0 };
        let known = self.estimate();
        let standing = match (self.breach, known) {
            (Some(_), _) => Standing::Breached,
            (None, None) => Standing::Unknown,
            (None, Some(estimate)) if !self.allowed().contains(estimate.value) => Standing::Leaning,
            (None, Some(_)) => Standing::Within,
        };
        let limit = percent(self.limit.share());
        let found = self.breach.map(|Breach { value, low, high }| (value, Interval { low, high }));
        let found = found.or(known.map(|estimate| (estimate.value, self.sequence.interval(estimate))));
        let brief = found.map_or_else(
            || "output_length not known yet".to_owned(),
            |(value, _)| format!("output_length {} (at most {limit} % either way)", change(value)),
        );
        let mean = |arm| self.contrast.mean(arm).mean().unwrap_or(0.0);
        let between = found.map_or_else(String::new, |(value, Interval { low, high })| {
            format!(": {}, surely between {} and {}", change(value), change(low), change(high))
        });
        let numbers = format!(
            "the canary's answers have {:.1} tokens, stable's over the same time {:.1}{between}, where {limit} % \
             either way is allowed; by {} canary answers of {} users",
            mean(Arm::Canary),
            mean(Arm::Stable),
            self.contrast.mean(Arm::Canary).answers,
            self.contrast.users(Arm::Canary),
        );
        let (canary, stable) = (counts(Arm::Canary), counts(Arm::Stable));
        LimitFinding { name: "output_length", standing, canary, stable, brief, numbers }
    }
}

/// `+54 %`, from the logarithm of a ratio.
fn change(log: f64) -> String {
    // Nothing is added to a zero that has a minus.
    format!("{:+.0} %", (log.exp_m1() * 100.0).round() + 0.0)
}
