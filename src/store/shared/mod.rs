//! A store that replicas share: a PostgreSQL database.
//!
//! What each replica keeps in memory is what all have written, so this is added to the tables of any store: a number that
//! counts changes, which every change moves on and every replica compares (`turn`); a channel on which a change is told
//! to the others (`listen`); an election of the one replica that advances rollouts (`lead`), to which the others send
//! what they saw of answers (`parcels`); and the answers that users may have a word about (`answers`).
//!
//! Invariants: a change is written only on top of the newest number, else not at all; evidence only by the leader of
//! the newest term; nothing here waits without a deadline; a lost database is an error to whoever changes something,
//! and nothing to whoever reads routes.

mod answers;
mod connect;
mod lead;
mod listen;
mod parcels;
mod turn;
mod writing;

pub use answers::{AnswerFound, AnswerRow};
pub use connect::Reach;
pub(super) use connect::Shared;
pub use lead::{LeaderRow, Role};
pub(super) use parcels::forget_parcels;
pub use parcels::{Parcel, ParcelRow, Taken};
pub use turn::Turn;
pub(super) use writing::Writes;
