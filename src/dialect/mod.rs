//! How models write what is no plain answer: what they think, and the tools that they call.
//!
//! In: the text of one answer, in pieces as it is generated. Out: [`Pieces`] of what a client gets: text, reasoning, calls
//! with their arguments as they come. Also what a template tells of a model's format, and how a call is written in it.
//! May import nothing. Knows no HTTP, no tokens, no engine.
//!
//! Invariants: a [`Reader`] is a pure state machine that looks at one character after the other, so that any cut of a text
//! gives the same pieces put together. What only looks like a call comes out as text, character by character. A call is one
//! once its name and the beginning of its arguments have been read; what is wrong after that stays in the arguments as the
//! model wrote it.

mod detect;
mod follow;
mod format;
mod hermes;
mod llama;
mod marks;
mod mistral;
mod object;
mod pieces;
mod reader;
mod think;

#[cfg(test)]
mod tests;

pub use detect::{detect_tools, mistral_of};
pub use format::{CallShape, Forced, THINK_MARKS, ToolFormat};
pub use pieces::{Piece, Pieces};
pub use reader::Reader;
pub use think::{Thinking, thinks_at_the_end};
