//! Where tensors lie and operators compute.

use std::fmt;

use super::cpu::{self, Level};
use super::error::{Result, TensorError};
use super::gpu::Gpu;

/// Where tensors lie and operators compute. Clones are the same device.
#[derive(Debug, Clone, Default)]
pub struct Device(pub(super) Place);

#[derive(Debug, Clone, Default)]
pub(super) enum Place {
    /// The host's processor, in its memory.
    #[default]
    Cpu,
    /// A GPU. Weights lie where all its streams find them.
    Gpu(Gpu),
}

/// What a machine says of one of its GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its place among the machine's GPUs: the N of `cuda:N`.
    pub ordinal: usize,
    /// As its maker calls it.
    pub name: String,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Bytes of memory.
    pub total_bytes: u64,
    /// Of those, bytes that nobody has.
    pub free_bytes: u64,
    /// The newest CUDA that the driver speaks: major and minor.
    pub cuda_version: (u32, u32),
    /// Why it lets nobody in, if so.
    pub closed: Option<String>,
}

/// The oldest GPUs that the kernels run on: Ampere, whose tensor cores multiply bf16.
const OLDEST: (u32, u32) = (8, 0);

impl GpuInfo {
    /// Why the kernels do not run on it, if they do not.
    pub fn unusable(&self) -> Option<String> {
        let (major, minor) = self.compute_capability;
        if self.closed.is_some() {
            return self.closed.clone();
        }
        (self.compute_capability < OLDEST).then(|| {
            format!(
                "compute capability {major}.{minor} is older than {}.{}, which our kernels need",
                OLDEST.0, OLDEST.1
            )
        })
    }
}

impl Device {
    /// The host's processor.
    pub const CPU: Self = Self(Place::Cpu);

    /// GPU `ordinal` of this machine, by CUDA.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        let gpus = Self::gpus()?;
        gpus.get(ordinal).map_or_else(
            || {
                let what = match gpus.len() {
                    0 => "this machine has no GPU that CUDA sees".to_owned(),
                    n => format!("this machine has {n} GPUs, cuda:0 to cuda:{}", n - 1),
                };
                Err(TensorError::Device { device: format!("cuda:{ordinal}"), what })
            },
            Self::of,
        )
    }

    /// One of [`Device::gpus`].
    pub fn of(gpu: &GpuInfo) -> Result<Self> {
        match gpu.unusable() {
            Some(why) => {
                let (device, what) = (format!("cuda:{}", gpu.ordinal), format!("{}: {why}", gpu.name));
                Err(TensorError::Device { device, what })
            }
            None => Ok(Self(Place::Gpu(Gpu::open(gpu.ordinal)?))),
        }
    }

    /// The GPUs of this machine; an error says why CUDA does not work here.
    pub fn gpus() -> Result<Vec<GpuInfo>> {
        super::gpu::devices()
    }

    /// What the compiler says of each kernel on each GPU it was compiled for: registers and spills, a line each. Empty in
    /// a build without CUDA.
    pub const fn kernel_resources() -> &'static str {
        super::gpu::kernel_resources()
    }

    /// Whether it is the host's processor.
    pub const fn is_host(&self) -> bool {
        matches!(self.0, Place::Cpu)
    }

    /// Whether passes take memory that is worth taking beforehand: a GPU's is not the host's, which gives and takes all
    /// the time.
    pub const fn takes_memory_for_passes(&self) -> bool {
        matches!(self.0, Place::Gpu(_))
    }

    /// What the host's kernels are compiled to here.
    pub fn instruction_set() -> &'static str {
        match Level::best() {
            Level::Vnni => "AVX-512 with VNNI",
            Level::Avx512 => "AVX-512",
            Level::Avx2 => "AVX2",
            Level::Portable => "no vector instructions that we use",
        }
    }

    /// Bytes a second that the device's memory moves, measured now by a copy far larger than its caches: those read and
    /// those written. Takes about a second and a gigabyte.
    pub fn memory_bandwidth(&self) -> Result<f64> {
        match &self.0 {
            Place::Cpu => Ok(cpu::memory_bandwidth()),
            Place::Gpu(gpu) => gpu.memory_bandwidth(),
        }
    }

    /// Waits for all that was enqueued on this stream.
    pub fn wait(&self) -> Result<()> {
        match &self.0 {
            Place::Cpu => Ok(()),
            Place::Gpu(gpu) => gpu.wait(),
        }
    }

    /// Bytes of its memory that nobody has; none where that is the host's.
    pub fn free_bytes(&self) -> Result<Option<u64>> {
        match &self.0 {
            Place::Cpu => Ok(None),
            Place::Gpu(gpu) => gpu.free_bytes().map(Some),
        }
    }

    /// The same device, for one that computes on his own: what others enqueue does not wait for him, nor he for them.
    pub fn stream(&self) -> Result<Self> {
        match &self.0 {
            Place::Cpu => Ok(Self::CPU),
            Place::Gpu(gpu) => Ok(Self(Place::Gpu(gpu.fork()?))),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Cpu => f.write_str("cpu"),
            Place::Gpu(gpu) => f.write_str(gpu.name()),
        }
    }
}
