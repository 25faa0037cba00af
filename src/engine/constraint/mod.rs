//! Constraints: a grammar that an answer must keep to, whatever the model would rather say.
//!
//! For: text that is valid by construction. In: a [`Grammar`], compiled once by a [`GrammarCompiler`] for one vocabulary
//! and shared by requests as a [`Constraint`]. Out: for each sequence a guide, which says before each choice which tokens
//! are allowed, and after it which tokens must follow.
//!
//! Invariants:
//! - What a guide says depends on the grammar and the answer so far only, so neither the batch nor preemption changes it.
//! - A guide never leaves a choice without a token: it ends the answer, or fails its own request and no other.
//! - Masks are computed on the pool of threads while the model computes; the engine waits for them before it chooses.
//! - Compiling is bounded in memory by its limits, but not in time or stack: callers bring a thread of their own.

mod grammar;
mod guide;
mod reader;
mod vocabulary;

#[cfg(test)]
mod tests;

pub use grammar::{Constraint, ConstraintError, GrammarCompiler};
pub(super) use guide::{Advance, Guide, JumpAhead, Then};

/// A grammar as the library reads it: Lark with JSON schemas in it.
pub use llguidance::api::TopLevelGrammar as Grammar;
