//! Webhooks: other people's systems are told what rollouts do.
//!
//! In: the outbox of the store, which the transitions themselves fill, and the configured receivers. Out: HTTP requests,
//! and views of what became of them. May import: `store` and `config`.
//!
//! Invariants: each delivery is made at least once, and those to one receiver in order; what is pending survives the
//! process; no receiver waits for another, and nothing that is told of waits for any; a delivery is given up after so
//! many attempts or so long, and is kept to be looked at; neither a URL nor a secret is in a log, an answer or the store.

mod courier;
mod message;
mod post;
mod retry;
mod slack;
mod status;

pub use courier::{Courier, NotifyError};
pub use retry::Terms;
pub use status::{ReceiverStatus, Webhooks};
