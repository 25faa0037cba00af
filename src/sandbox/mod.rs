//! The box in which templates that others wrote are compiled and rendered: no file, no environment; bounded work, memory,
//! stack and time.
//!
//! In: an environment of minijinja with the functions that a dialect of templates knows, sources, variables in JSON. Out: a
//! text, or a [`Failure`]. May import nothing.
//!
//! Fuel bounds what a rendering does and how much it holds. Two things it does not bound. How deep a value is nested: to
//! print, compare or drop one is recursive, and a thread whose stack is full takes the process with it. And how long two
//! small values take to compare that hold themselves many times. So:
//!
//! Invariants: a template is compiled on a thread whose stack its source cannot fill, and rendered on one whose stack its
//! fuel cannot fill; no value of a template leaves that thread; who waits for a rendering waits for a bounded time; what
//! does not end takes a bounded number of threads, and none that another template needs.

mod bounded;
mod failure;
mod stack;
mod templates;
mod threads;

#[cfg(test)]
mod tests;

pub use bounded::Bounded;
pub use failure::{BUSY, Failure, Raised, Stopped};
pub use templates::{Templates, Texts};
