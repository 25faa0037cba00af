//! Flags: whom a model, or one of its versions, is open to.
//!
//! In: a model's [`Flag`](crate::config::Flag)s, a sticky key and the [`Traits`] of a request. Out: whether it is let in,
//! and what it gets if not: another version, or a text. Pure: no clock, no I/O, no lock. May import: `config` for flags.
//!
//! Invariants: a key that is let in stays in while a percentage grows and cohorts stay; which keys a flag lets in says
//! nothing of which version their route gives them, nor of other flags; a flag that lets everybody in costs nothing.

mod decide;
mod gate;
mod traits;

#[cfg(test)]
mod tests;

pub(super) use decide::Choice;
pub use decide::{Canned, ChosenBy};
pub(super) use gate::Flags;
pub use gate::{DecidedBy, Evaluation};
pub use traits::{Traits, Who};
