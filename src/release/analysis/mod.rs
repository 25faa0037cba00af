//! Is the canary worse than stable? A sequential test that may look as often as it likes.
//!
//! In: outcomes and measures of checked answers, each with its arm and its user. Out: a [`Judgement`] whose [`Verdict`]
//! explains itself: of a [`Panel`] of checks, and of [`Guardrails`] beside it, which can only abort. Pure: no
//! clock, no I/O. May import: `config` for a policy's numbers.
//!
//! Invariants: with no drop, the chance of ever saying `abort` stays under alpha, however often it looks, and within all
//! limits of the guardrails under theirs; canary answers are only compared with stable answers of the same
//! time; answers of one user count as one cluster.
//! `docs/rollouts.md` has the mathematics and its sources.

mod clusters;
mod confidence;
mod contrast;
mod differences;
mod guardrails;
mod length_limit;
mod measured;
mod panel;
mod pass_rate;
mod quantiles;
mod stretches;
mod table;
mod time_limit;
mod verdict;

use serde::{Deserialize, Serialize};

pub use clusters::UserCell;
pub use differences::{ArmMeasure, Bounds, Difference, Differences, Unit};
pub use guardrails::{Guardrails, LimitFinding, Standing};
pub use measured::Measured;
pub use panel::{Judgement, Panel};
pub use pass_rate::{PassRate, Snapshot, Terms};
pub use table::{Arm, Counts};
pub use verdict::{Finding, Verdict};

/// What a check said of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The answer is good.
    Passed,
    /// It is not.
    Failed,
}
