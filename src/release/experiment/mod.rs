//! Experiments: two versions side by side at a fixed share, compared with intervals, and nobody promoted.
//!
//! In: what an operator asks, and answers. Out: differences, and routes. The state is pure (`state`); the owner of
//! changes writes it with its route (`owning`); the watcher feeds it (`desks`). Invariants: a model has a rollout or an
//! experiment, never both; while one runs the route is its share; however it ends, but by a change of the route by hand,
//! control has all traffic.

mod desks;
mod owning;
mod rows;
mod running;
mod state;

pub(super) use desks::Desks;
pub(super) use owning::BeginExperiment;
pub(super) use running::Experiments;
pub use state::{Ended, EndedFor, Experiment, ExperimentEvent, NewExperiment};

pub use owning::ExperimentReport;
