//! Regression suites: hand-written cases put to a version, each answer judged by its assertions, and two versions compared
//! case by case.
//!
//! In: a [`Suite`](crate::config::suite::Suite), who is asked, and a [`Door`] to ask by. Out: a [`Report`], which
//! [`compare`] sets beside that of a baseline. May import `config`.
//!
//! Invariants: a case that cannot be asked or judged is an error of its own, never a pass, and the others go on; cases of
//! one conversation come one after the other; the order of the report is the order of the file.

mod again;
mod assertion;
mod compare;
mod door;
mod edits;
mod found;
mod judge;
mod render;
mod report;
mod run;
mod terms;

#[cfg(test)]
mod tests;

pub use again::{check_case, has_case_of, vars_for};
pub use assertion::{Unsupported, unsupported};
pub use compare::{Change, Comparison, compare, mcnemar};
pub use door::{Asked, Door, DoorError};
pub use report::{AssertionResult, CaseResult, Outcome, Report, Tally};
pub use run::{Foreign, Plan, check_suite, run};
