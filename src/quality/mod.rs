//! Programmatic checks of one answer: is it JSON, does it fit a schema, does it refuse, does it mean what it should, came
//! it in time.
//!
//! In: a model's [`CheckSpec`](crate::config::CheckSpec)s, once; then each [`Response`] as it ends. Out: for each
//! check a [`Verdict`] with its reason; from the [`CheckQueue`] an [`Observation`] for each answer, and counters.
//! May import `config`. Knows no HTTP, no engine and no routes; what turns a text into a vector is brought by the caller,
//! as an [`Embedder`].
//!
//! Invariants: a check is a pure function of the response: no clock, no I/O, no network; no text panics or hangs one
//! (patterns run in linear time, JSON is read to a bounded depth); the queue never makes a request wait: what finds it
//! full is dropped and counted.

mod checks;
mod compile;
mod embedding;
mod json;
mod language;
mod limits;
mod queue;
mod refusal;
mod response;
mod similar;
pub mod suite;
mod text;
mod tool_calls;
mod verdict;
mod worker;

#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod tests;

pub use checks::{CheckBroken, Checks, Judged};
pub use compile::CompileError;
pub use embedding::{Embedder, Embedding};
pub use queue::{CheckQueue, Limits, Plan, Watch};
pub use response::{Response, Tool, ToolCall};
pub use verdict::{Judgement, Verdict};
pub use worker::{CutShort, Observation, Sink, Way};

pub use crate::config::FinishReason;
