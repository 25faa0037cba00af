//! Which version answers: flags, routes, sticky keys, changes of weights, rollback; how a canary takes over from
//! stable, and whether it is worse, by its checks and by what users say.
//!
//! In: a model, a sticky key and what flags may know, or an operator's change. Out: a version. May import `store` and
//! `config`; knows no HTTP and no engine (it asks a [`Readiness`] whether a version can take traffic).
//!
//! Invariants: reading a route takes no lock and does no I/O; one task owns all changes, and each is in the
//! store before readers see it and seen by readers before it is answered; a key moves only when its version's
//! share shrinks.

pub mod analysis;
mod changes;
mod declared;
mod desk;
mod error;
pub mod experiment;
mod feedback;
mod flag;
mod flags;
mod hearing;
mod history;
mod leading;
mod moves;
mod owner;
mod parcels;
pub mod rollout;
mod route;
mod running;
mod shared;
pub mod simulation;
mod sticky;
mod table;
mod telling;
mod view;
mod wanted;
mod watcher;

pub use changes::{Begin, Change, Entry, OnConflict, Presence, Readiness, Releases, Withdrawn};
pub use declared::Declared;
pub use desk::FINISHED;
pub use error::ReleaseError;
pub use feedback::{Answered, FeedbackCheck, FeedbackError, REMEMBERED, Rated};
pub use flag::{Canned, ChosenBy, DecidedBy, Evaluation, Traits, Who};
pub use flags::{FlagChange, FlagsView};
pub use route::Route;
pub use running::Running;
pub use sticky::{BUCKETS, Bucket, StickyKey, bucket_of, user_number};
pub use table::{Destination, Resolution, RouteTable, Routes};
pub use view::{AuditAction, AuditEntry, RolloutLine, RouteView};
pub use wanted::{Followed, Intent, intent};
pub use watcher::{Message, Request, Seen, SeenAnswer, Watched, WatchedCheck, Watcher};
