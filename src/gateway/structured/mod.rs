//! Structured output: from what a client asks for to a constraint that the engine keeps an answer to.
//!
//! In: a [`Structure`] (a schema, a regular expression, a choice of texts, a grammar), which calls of tools become, too. Out: a compiled constraint, or an error
//! in words for the client. A version has one [`Structures`], which compiles for its tokenizer and remembers what it
//! compiled.
//!
//! Invariants: what is not understood is refused, never left out; nothing that a client writes takes more than bounded
//! memory, time and stack to refuse or compile; the request path waits for a compiler only where a grammar is new.

mod calls;
mod compile;
mod grammar;
mod recent;
mod schema;

pub(super) use calls::{Calls, Offered, Others, Thought, calls};
pub(super) use compile::Structures;
pub use grammar::{Shape, Structure};
pub use schema::depth;
