//! What a policy would do: synthetic traffic, replayed through the real analysis thousands of times.
//!
//! In: a policy, traffic with known pass rates, a number of runs and a seed. Out: how often the canary is aborted,
//! promoted or left undecided, how soon, and how many users met it; the same for the rule that looks at a threshold.
//! Pure but for its own random numbers: the same seed gives the same report on every machine.

mod measures;
mod report;
mod run;
mod schedule;
mod threshold;
mod traffic;

pub use measures::{Guarded, Measures};
pub use report::{Breaches, Decisions, Report};
pub use run::{Scenario, simulate};
pub use schedule::{Minute, Schedule, ScheduleError};
pub use traffic::Traffic;
