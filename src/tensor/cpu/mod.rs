//! The host's kernels: on slices of `f32`, over weights where they are mapped.

mod ahead;
mod attention;
mod bandwidth;
mod choose;
mod isa;
mod linear;
mod low_rank;
mod quantised;
mod route;
mod rowwise;
mod team;

pub(super) use attention::{KvStore, attend};
pub(super) use bandwidth::memory_bandwidth;
pub(super) use choose::choose;
pub(super) use isa::Level;
pub(super) use linear::linear;
pub(super) use low_rank::{LowRankTask, add_low_rank};
pub(super) use route::route;
pub(super) use rowwise::{add, embedding, gate_mul, gelu, layer_norm, rms_norm, rope, softcap};
