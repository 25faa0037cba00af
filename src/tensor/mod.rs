//! Operators of a transformer over candle tensors, and the weights that they read.
//!
//! In: `f32` activations as candle tensors, weights as they lie in a mapped file (bf16, f16 or f32; never copied).
//! Out: `f32` tensors. Imports no other room. `ops` is the face; the kernels beside it work on slices, and
//! `reference` holds a slow, obvious twin of each for the tests.
//!
//! Invariant: **a row is computed alone.** The bits of a result row depend on that row's inputs only, never
//! on how many other rows there are, on their order or on the number of threads. So a request's answer
//! cannot depend on what it is batched with. Each kernel keeps one fixed order of additions for an element;
//! only another instruction set may round differently.

mod attention;
mod isa;
mod linear;
mod ops;
#[cfg(test)]
mod reference;
mod rowwise;
mod weight;

pub use attention::{Contexts, KvCache, KvLayout, Query};
pub use isa::Level;
pub use ops::{
    add, embedding, gelu, layer_norm, linear, paged_attention, rms_norm, rope, select_rows, silu_mul,
    write_kv,
};
pub use rowwise::{RopeAngles, RopeTable};
pub use weight::{ElementType, MappedFile, WeakWeight, Weight, WeightError};
