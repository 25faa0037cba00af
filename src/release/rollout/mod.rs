//! How a canary takes over from stable: the state machine of one rollout.
//!
//! In: an [`Event`] and the time at which it happened. Out: the next [`Rollout`], the change of the route that it asks
//! for, and the reason in one sentence; or a [`Refusal`] that says what would do. Pure: no clock, no I/O, no channel.
//! May import: `config` for policies, `store` for rows.
//!
//! Invariants: the canary's weight never falls but to 0, by an abort or a newer rollout; it is what the policy says of
//! the step; what has ended never changes; all traffic moves only after evidence, where nothing is there to be judged,
//! where the policy lets an open question pass, or on an operator's word.

mod event;
mod machine;
mod rows;
mod state;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use crate::config::Phase;
pub use crate::ids::RolloutId;
pub use event::{Action, Command, Event, Exposure, Next, Refusal, Transition};
pub use state::shown;
pub use state::{AbortedFor, Basis, Judged, NewRollout, PromotedOn, Rollout, SameVersion, State, WaitsFor};
