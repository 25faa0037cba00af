//! The demo's task: a support desk that reads a customer's message and answers with one JSON object.
//!
//! In: a seed. Out: conversations to train on, held-out cases that share no message with them, and a
//! score for an answer. Pure and seeded: the same seed gives the same conversations on every machine.
//! Imports no other room; `examples/train-demo` and `switchback bench demo` build on it.

mod case;
mod dice;
mod score;
mod wording;

pub use case::{Case, Expected, Priority, SYSTEM_PROMPT, held_out, training};
pub use score::{REFUSAL, Score, score};
