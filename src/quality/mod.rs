//! Programmatic checks of one answer: is it JSON, does it fit a schema, does it refuse, came it in time.
//!
//! In: a model's [`CheckSpec`](crate::config::CheckSpec)s, once; then each [`Response`] as it ends. Out: for each
//! check a [`Verdict`] with its reason.
//! May import `config`. Knows no HTTP, no engine and no routes.
//!
//! Invariants: a check is a pure function of the response: no clock, no I/O, no network; no text panics or hangs one
//! (patterns run in linear time, JSON is read to a bounded depth).

mod checks;
mod compile;
mod json;
mod language;
mod limits;
mod refusal;
mod response;
mod text;
mod tool_calls;
mod verdict;

#[cfg(test)]
mod tests;

pub use checks::{CheckPanic, Checks};
pub use compile::CompileError;
pub use response::{Response, Tool, ToolCall};
pub use verdict::{Judgement, Verdict};

pub use crate::config::FinishReason;
