//! Operators of a transformer on the CPU, and the weights that they read.
//!
//! In: rows of `f32` activations, weights as they lie in a mapped file (bf16, f16 or f32; never copied).
//! Out: rows of `f32`. Imports no other room.
//!
//! Invariant: **a row is computed alone.** The bits of a result row depend on that row's inputs only, never
//! on how many other rows there are, on their order or on the number of threads. So a request's answer
//! cannot depend on what it is batched with. Each operator keeps one fixed order of additions for an element.

mod attention;
mod linear;
mod ops;
mod weight;

pub use attention::{KvCache, KvLayout, Query, attend};
pub use linear::linear;
pub use ops::{add, embed, rms_norm, rope, silu_mul};
pub use weight::{ElementType, Weight, WeightError};
