//! The seam between operators and whoever runs their kernels.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::gemm::Product;
use super::graph::{Graph, Recorded};
use super::memory::{Buffer, Kept, Pinned, Recycled};
use crate::tensor::error::{Result, TensorError};

/// One stream of work on a device. Clones are the same stream.
#[derive(Clone)]
pub(in crate::tensor) struct Gpu(Arc<Inner>);

struct Inner {
    driver: Box<dyn Driver>,
    // Guards the memory that tensors gave back. They are dropped wherever they go out of scope, on the one thread that
    // owns the stream, so nobody waits for it; the type cannot know that.
    recycled: Mutex<Recycled>,
}

/// Who runs the work of one stream: CUDA's driver, or in tests the host.
pub(super) trait Driver: Send + Sync {
    /// As the configuration names the device: `cuda:0`.
    fn name(&self) -> &str;
    /// Memory of so many bytes, at least one, with anything in it.
    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// Gives memory back, once work that uses it is done.
    fn free(&self, address: u64);
    /// Says that a tensor's memory is another's now.
    fn reused(&self, _address: u64, _bytes: usize) {}
    /// Memory of the host that the device reads and writes by itself, of so many bytes, at least one; zeroes.
    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8>;
    /// Gives such memory back. Nothing that is enqueued uses it.
    fn free_pinned(&self, memory: *mut u8, bytes: usize);
    /// Zeroes memory, in the order of the stream.
    fn zero(&self, address: u64, bytes: usize) -> Result<()>;
    /// Writes memory, in the order of the stream; the source may change afterwards, unless it is pinned: then only after
    /// the work is done.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<()>;
    /// Reads memory, after all work before.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()>;
    /// Copies memory of the device, in the order of the stream.
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()>;
    /// Waits for all work.
    fn wait(&self) -> Result<()>;
    /// Bytes of the device's memory that nobody has.
    fn free_bytes(&self) -> Result<u64>;
    /// Enqueues a kernel.
    ///
    /// # Safety
    /// As [`Gpu::launch`].
    unsafe fn launch(&self, kernel: &str, shape: Shape, arguments: &mut [*mut c_void]) -> Result<()>;
    /// Enqueues a product.
    ///
    /// # Safety
    /// As [`Gpu::multiply`].
    unsafe fn multiply(&self, product: &Product) -> Result<()>;
    /// Records what is enqueued from here on, instead of doing it.
    fn begin_recording(&self) -> Result<()>;
    /// Ends that.
    fn end_recording(&self) -> Result<Box<dyn Recorded>>;
    /// Another stream on the same device.
    fn fork(&self) -> Result<Box<dyn Driver>>;
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) grid: [u32; 3],
    /// Threads of a block.
    pub(super) block: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: usize,
}

/// Why there is no GPU in a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub(super) fn not_built() -> TensorError {
    let what = "this program is built without it; build it with `cargo build --release --features cuda`";
    TensorError::Device { device: "CUDA".to_owned(), what: what.to_owned() }
}

impl Gpu {
    /// The first stream on a GPU of this machine.
    pub(in crate::tensor) fn open(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Ok(Self::new(Box::new(super::cuda::Cuda::new(ordinal)?)));
        #[cfg(not(feature = "cuda"))]
        {
            let _ = ordinal;
            Err(not_built())
        }
    }

    /// As the configuration names it: `cuda:0`.
    pub(in crate::tensor) fn name(&self) -> &str {
        self.0.driver.name()
    }

    pub(super) fn new(driver: Box<dyn Driver>) -> Self {
        Self(Arc::new(Inner { driver, recycled: Mutex::new(Recycled::default()) }))
    }

    /// Room for a tensor of a step, with whatever was there before in it.
    pub(super) fn scratch(&self, bytes: usize) -> Result<Buffer> {
        let class = Recycled::class(bytes);
        let recycled = self.0.recycled().take(class);
        let (address, bytes) = match recycled {
            Some((address, bytes)) => {
                self.0.driver.reused(address, bytes);
                (address, bytes)
            }
            None => (self.allocate(class)?, class),
        };
        Ok(Buffer::new(self.clone(), address, bytes, Kept::ForTheNext))
    }

    /// Room for what stays: a weight, a cache. Given back to the device when it is dropped.
    pub(super) fn lasting(&self, bytes: usize) -> Result<Buffer> {
        Ok(Buffer::new(self.clone(), self.allocate(bytes)?, bytes, Kept::Not))
    }

    /// Room for what stays, zeroed.
    pub(super) fn zeroed(&self, bytes: usize) -> Result<Buffer> {
        let buffer = self.lasting(bytes)?;
        self.0.driver.zero(buffer.address(), bytes)?;
        Ok(buffer)
    }

    /// What stays, with these bytes in it: they are there when this returns, for all streams.
    pub(in crate::tensor) fn place(&self, bytes: &[u8]) -> Result<Buffer> {
        let buffer = self.lasting(bytes.len())?;
        self.write(&buffer, bytes)?;
        self.0.driver.wait()?;
        Ok(buffer)
    }

    /// Memory of the host that copies to and from the device go through at full speed. Not what a computation needs: where
    /// the host has no more, that is an error like another.
    pub(in crate::tensor) fn pinned(&self, bytes: usize) -> Result<Pinned> {
        Ok(Pinned::new(self.clone(), self.0.driver.allocate_pinned(bytes.max(1))?, bytes))
    }

    pub(super) fn free_pinned(&self, memory: *mut u8, bytes: usize) {
        self.0.driver.free_pinned(memory, bytes.max(1));
    }

    /// Writes bytes at the start of a buffer. The source may be changed once this returns.
    pub(super) fn write(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        debug_assert!(bytes.len() <= buffer.bytes(), "more than the buffer holds");
        self.0.driver.write(buffer.address(), bytes)
    }

    /// Reads the start of a buffer, after all work that is enqueued.
    pub(in crate::tensor) fn read(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        self.read_from(buffer, 0, bytes)
    }

    /// Reads a part of a buffer, after all work that is enqueued.
    pub(super) fn read_from(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        debug_assert!(offset + bytes.len() <= buffer.bytes(), "more than the buffer holds");
        self.0.driver.read(buffer.address() + offset as u64, bytes)
    }

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// `arguments` point to values of the kernel's own parameter types, in its order, and what the kernel makes of them
    /// is within buffers that live until the work is enqueued.
    pub(super) unsafe fn launch(
        &self,
        kernel: &str,
        shape: Shape,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        if shape.grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: the caller's promise
        unsafe { self.0.driver.launch(kernel, shape, arguments) }
    }

    /// Enqueues a product of matrices.
    ///
    /// # Safety
    /// Its addresses are of buffers that hold matrices of its shape and live until the work is enqueued.
    pub(super) unsafe fn multiply(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's promise
        unsafe { self.0.driver.multiply(product) }
    }

    /// Bytes a second that a large copy on the device reads and writes: the median of a few.
    pub(in crate::tensor) fn memory_bandwidth(&self) -> Result<f64> {
        const BYTES: usize = 1 << 29;
        const ROUNDS: usize = 9;
        const COPIES: usize = 8;
        let (from, to) = (self.zeroed(BYTES)?, self.zeroed(BYTES)?);
        let mut found = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            self.0.driver.wait()?;
            let begun = Instant::now();
            for _ in 0..COPIES {
                self.0.driver.copy(from.address(), to.address(), BYTES)?;
            }
            self.0.driver.wait()?;
            found.push((2 * COPIES * BYTES) as f64 / begun.elapsed().as_secs_f64());
        }
        found.sort_by(f64::total_cmp);
        Ok(found[ROUNDS / 2])
    }

    /// Waits for all work of the stream.
    pub(in crate::tensor) fn wait(&self) -> Result<()> {
        self.0.driver.wait()
    }

    /// Bytes of the device's memory that nobody has.
    pub(in crate::tensor) fn free_bytes(&self) -> Result<u64> {
        self.0.driver.free_bytes()
    }

    /// Another stream of work on the same device.
    pub(in crate::tensor) fn fork(&self) -> Result<Self> {
        Ok(Self::new(self.0.driver.fork()?))
    }

    /// Records the work that `work` enqueues, and gives what it gives.
    pub(in crate::tensor) fn record<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        // from the first, so that nothing that is recorded leaves the stream where memory runs out meanwhile
        let pinned = Pin::new(self);
        self.0.driver.begin_recording()?;
        let done = work();
        // also where it failed: the stream must not stay so
        let recorded = self.0.driver.end_recording();
        let done = done?;
        Ok((Graph::new(pinned, recorded?), done))
    }

    pub(super) fn free(&self, address: u64) {
        self.0.driver.free(address);
    }

    pub(super) fn recycle(&self, address: u64, bytes: usize) {
        self.0.recycled().put(address, bytes);
    }

    /// What tensors gave back may be enough where the device has no more, in other pieces.
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let bytes = bytes.max(1);
        match self.0.driver.allocate(bytes) {
            Err(TensorError::Memory { .. }) if self.0.give_back() > 0 => self.0.driver.allocate(bytes),
            asked => asked,
        }
    }
}

/// While there is one, no memory that tensors gave back leaves the stream.
pub(super) struct Pin(Gpu);

impl Pin {
    fn new(gpu: &Gpu) -> Self {
        gpu.0.recycled().graphs += 1;
        Self(gpu.clone())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.0.recycled().graphs -= 1;
    }
}

impl Inner {
    fn recycled(&self) -> MutexGuard<'_, Recycled> {
        self.recycled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the device all that no tensor has and no recording writes to; how many pieces that is.
    fn give_back(&self) -> usize {
        let mut recycled = self.recycled();
        if recycled.graphs > 0 {
            return 0;
        }
        let pieces = recycled.drain();
        drop(recycled);
        for address in &pieces {
            self.driver.free(*address);
        }
        pieces.len()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.name())
    }
}
