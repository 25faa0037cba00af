//! What must outlive the process, in SQLite: route revisions, rollouts with all their transitions, experiments, what their
//! analyses have seen, and the audit log.
//!
//! In: typed rows. Out: typed rows. May import `ids`. Invariants: a route change and its audit line are
//! one transaction, and so are a rollout's new state, its transition, its route and its audit line; at most one rollout
//! of a model runs; one process at a time has the store open; what a call has answered survives `kill -9` and a power cut (WAL, synchronous FULL).
//! The SQL keeps to what PostgreSQL understands too.

mod audit;
mod error;
mod experiments;
mod observations;
mod open;
mod read;
mod rollouts;
mod routes;

pub use audit::{AuditRow, NewAudit};
pub use error::StoreError;
pub use experiments::{ExperimentChange, ExperimentRow};
pub use observations::{ArmCounts, ObservationRow};
pub use open::Store;
pub use rollouts::{NewTransition, RolloutRow, TransitionRow};
pub use routes::{BucketRun, RouteRow, StableRoute};
