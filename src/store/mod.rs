//! What must outlive the process: route revisions, flags, rollouts with all their transitions, experiments, what their
//! analyses have seen, the outbox of webhooks, and the audit log. In a file of SQLite that one server has for itself, or
//! in a PostgreSQL database that replicas share (`shared`).
//!
//! In: typed rows. Out: typed rows. May import `ids`. Invariants: a route change or a flag and its audit line are one
//! transaction, and so are a rollout's new state, its transition, its route, its audit line and the news of it in the
//! outbox; at most one rollout of a model runs; one process at a time has a file open; what a call has answered
//! survives `kill -9` and a power cut (WAL, synchronous FULL; PostgreSQL's own settings are its operator's). Both
//! databases are asked by the same SQL; what only PostgreSQL can do is in `shared`.

mod audit;
mod error;
mod experiments;
mod flags;
mod notice;
mod observations;
mod open;
mod outbox;
mod read;
mod rollouts;
mod routes;
mod shared;
mod wanted;

pub use audit::{AuditRow, NewAudit};
pub use error::StoreError;
pub use experiments::{ExperimentChange, ExperimentRow};
pub use flags::FlagRow;
pub use notice::RolloutNotice;
pub use observations::{ArmCounts, ObservationRow};
pub use open::Store;
pub use outbox::{Attempt, DeliveryCounts, DeliveryRow, DeliveryState, KEPT, Subscription};
pub use rollouts::{NewTransition, RolloutRow, TransitionRow};
pub use routes::{BucketRun, RouteRow, StableRoute};
pub use shared::{AnswerFound, AnswerRow, LeaderRow, Parcel, ParcelRow, Reach, Role, Taken, Turn};
