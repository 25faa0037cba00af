//! What must outlive the process: route revisions and the audit log, in SQLite.
//!
//! In: typed rows. Out: typed rows. May import `ids`. Invariants: a route change and its audit line are
//! one transaction; one process at a time has the store open; what a call has answered survives `kill -9` and a power cut (WAL, synchronous FULL).
//! The SQL keeps to what PostgreSQL understands too.

mod audit;
mod error;
mod open;
mod routes;

pub use audit::{AuditRow, NewAudit};
pub use error::StoreError;
pub use open::Store;
pub use routes::{BucketRun, RouteRow, StableRoute};
