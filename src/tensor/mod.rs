//! Operators of a transformer, one function each whatever the device, and the weights that they read.
//!
//! In: activations as [`Tensor`]s, weights as they lie in a mapped file (bf16, f16 or f32) or quantised in memory of their
//! own. Out: [`Tensor`]s on the same device. Imports no other room. `ops`, `attention` and `experts` are the face,
//! `encoding` and `blocks` how weights are stored. Under `cpu` lie the kernels of the host, on slices of `f32`, which read a
//! weight where it lies. Under `gpu` lies what launches the CUDA kernels of `kernels/`, in a weight's own
//! element type. `reference` holds a slow, obvious twin of each operator for the tests.
//!
//! Invariant on the host: **a row is computed alone.** The bits of a result row depend on that row's inputs only, never
//! on how many other rows there are, on their order or on the number of threads. So a request's answer
//! cannot depend on what it is batched with. Each kernel keeps one fixed order of additions for an element;
//! only another instruction set may round differently. A GPU keeps it in our own kernels; the library that multiplies
//! large matrices there orders its additions by the batch's size.

mod array;
mod attention;
mod blocks;
mod choice;
mod cpu;
mod device;
mod encoding;
mod error;
mod experts;
mod gpu;
mod kv;
mod low_rank;
mod ops;
#[cfg(test)]
mod reference;
mod replay;
mod rope;
mod rows;
mod weight;

pub use array::Tensor;
pub use attention::{Attention, paged_attention, rope_write_kv, write_kv};
pub use blocks::BlockFormat;
pub use choice::{Choice, Edit, TokenMask, by_rank, greatest};
pub use device::{Device, GpuInfo};
pub use encoding::{ElementType, Encoding};
pub use error::TensorError;
pub use experts::{Experts, Routing, Shares, mixture};
#[cfg(test)]
pub(crate) use gpu::{test_device, watched_device};
pub use kv::{KvCache, KvLayout, KvPool};
pub use low_rank::{AdapterSlot, HIGHEST_RANK, LowRank, LowRanks, MOST_ADAPTERS, add_low_rank};
pub use ops::{
    Activation, Affine, add, add_rms_norm, choose, embedding, gate_mul, gated_linear, gelu, layer_norm,
    linear, logits, rms_norm, rms_norm_heads, select_rows, softcap,
};
pub use replay::Replays;
pub use rope::{Rope, RopeAngles, RopeTable};
pub use rows::{Adapters, Context, HostRows, Indices, Mask, Rows};
pub use weight::{MappedFile, Staged, Vector, WeakWeight, Weight, WeightError};
