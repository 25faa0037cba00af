//! A GPU: memory on it, and the kernels of `kernels/` launched over it.
//!
//! A [`Gpu`] is one stream of work on a device, in order. Operators enqueue and return; only reading a result waits.
//! `driver` is the seam: behind it are CUDA's driver, in builds with the feature `cuda`, and in tests the kernels' host
//! form over the host's memory, so that all else of this folder is tested without a GPU. Without either it is an empty
//! type, and nothing here can be reached.
//!
//! Imports the rest of `tensor` only for shapes. Invariants: memory that a tensor gave back is written again only by
//! work that is enqueued later on the same stream; a kernel is given its arguments in one place, beside the shape of its
//! launch.

mod attention;
mod choose;
#[cfg(feature = "cuda")]
mod cuda;
mod driver;
#[cfg(test)]
mod emulated;
mod experts;
mod gemm;
mod graph;
mod launch;
mod lists;
mod low_rank;
#[cfg(feature = "cuda")]
mod matmul;
mod memory;
mod ops;
mod quantised;
mod rows;

#[cfg(test)]
mod quantised_tests;
#[cfg(test)]
mod tests;

pub(super) use attention::{KvStore, paged_attention, rope_write_kv};
pub(super) use choose::choose;
pub(super) use driver::Gpu;
pub(super) use experts::{MixtureShape, mixture, table};
pub(super) use graph::{Graph, Places};
pub(super) use lists::Indices;
pub(super) use low_rank::{AdapterTable, add_low_rank};
pub(super) use memory::{Buffer, Pinned};
pub(super) use ops::{
    Array, Layer, add_rms_norm, angles, embedding, gate_mul, gated_linear, linear, logits, rms_norm,
    rms_norm_heads, select_rows, softcap,
};
pub(super) use rows::Contexts;

use super::device::GpuInfo;
use super::error::Result;

/// A device of so many bytes that the host plays; or the GPU that `SWITCHBACK_TEST_DEVICE` names, such as `cuda:0`, for
/// kernels/gpu-check.
#[cfg(test)]
pub(crate) fn test_device(bytes: usize) -> super::Device {
    if let Ok(name) = std::env::var("SWITCHBACK_TEST_DEVICE") {
        let ordinal = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).expect("a name such as cuda:0");
        return super::Device::cuda(ordinal).expect("the GPU can be used");
    }
    let gpu = Gpu::new(emulated::Emulated::new(bytes).stream());
    super::Device(super::device::Place::Gpu(gpu))
}

/// A device of so many bytes that the host plays, and how many of them somebody holds; what is pinned of the host's memory
/// is counted apart.
#[cfg(test)]
pub(crate) fn watched_device(bytes: usize) -> (super::Device, Used) {
    let emulated = emulated::Emulated::new(bytes);
    let gpu = Gpu::new(emulated.stream());
    (super::Device(super::device::Place::Gpu(gpu)), Used(emulated))
}

/// How much of a watched device somebody holds.
#[cfg(test)]
pub(crate) struct Used(emulated::Emulated);

#[cfg(test)]
impl Used {
    /// Bytes of the device's memory.
    pub(crate) fn device(&self) -> usize {
        self.0.used()
    }

    /// Bytes of the host's memory that are pinned for it.
    pub(crate) fn pinned(&self) -> usize {
        self.0.pinned()
    }
}

/// The GPUs of this machine.
pub(super) fn devices() -> Result<Vec<GpuInfo>> {
    #[cfg(feature = "cuda")]
    return cuda::devices();
    #[cfg(not(feature = "cuda"))]
    Err(driver::not_built())
}

/// What the compiler says of each kernel; nothing where none was compiled.
pub(super) const fn kernel_resources() -> &'static str {
    #[cfg(feature = "cuda")]
    return include_str!(concat!(env!("OUT_DIR"), "/resources.txt"));
    #[cfg(not(feature = "cuda"))]
    ""
}
