//! The rule that canary controllers have: abort when the canary's pass rate is more than a threshold under stable's.
//! Simulated beside the analysis, to show what its errors are.

use super::traffic::Answer;
use crate::release::analysis::{Arm, Counts, Outcome, Verdict};

/// All answers so far, without regard to when they came.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Threshold {
    canary: Counts,
    stable: Counts,
}

impl Threshold {
    pub(super) fn observe(&mut self, answer: Answer) {
        let counts = match answer.arm {
            Arm::Canary => &mut self.canary,
            Arm::Stable => &mut self.stable,
        };
        counts.answers += 1;
        counts.failures += u64::from(answer.outcome == Outcome::Failed);
    }

    /// Looks, once there are enough canary answers.
    pub(super) fn look(&self, margin: f64, min_samples: u64) -> Verdict {
        let enough = self.canary.answers >= min_samples && self.stable.answers > 0;
        if enough && self.canary.pass_rate() < self.stable.pass_rate() - margin {
            Verdict::Abort
        } else {
            Verdict::Continue
        }
    }
}
