//! Pieces of a device's memory.

use std::collections::BTreeMap;

use super::driver::Gpu;

/// Sizes of small pieces are whole numbers of this, and so are all addresses.
const GRAIN: usize = 512;
/// Sizes from here on are whole numbers of this.
const LARGE: usize = 1 << 20;

/// A piece of a device's memory. Dropping it gives it back.
#[derive(Debug)]
pub(in crate::tensor) struct Buffer {
    gpu: Gpu,
    address: u64,
    bytes: usize,
    kept: Kept,
}

/// What becomes of a piece that is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// The next tensor of its size gets it: it must not be read or written by anybody outside the stream.
    ForTheNext,
    /// The device has it again.
    Not,
}

impl Buffer {
    pub(super) const fn new(gpu: Gpu, address: u64, bytes: usize, kept: Kept) -> Self {
        Self { gpu, address, bytes, kept }
    }

    pub(in crate::tensor) const fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    pub(super) const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes that it holds, at least what was asked for.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match self.kept {
            Kept::ForTheNext => self.gpu.recycle(self.address, self.bytes),
            Kept::Not => self.gpu.free(self.address),
        }
    }
}

/// Pieces that tensors gave back. One step asks for the same sizes as the one before, so after the first there is one
/// for each tensor, and the device is not asked again.
#[derive(Debug, Default)]
pub(super) struct Recycled {
    by_size: BTreeMap<usize, Vec<u64>>,
}

impl Recycled {
    /// The size of the piece that a tensor of so many bytes gets.
    pub(super) fn class(bytes: usize) -> usize {
        let grain = if bytes < LARGE { GRAIN } else { LARGE };
        bytes.max(1).next_multiple_of(grain)
    }

    pub(super) fn take(&mut self, class: usize) -> Option<u64> {
        let pieces = self.by_size.get_mut(&class)?;
        let address = pieces.pop();
        if pieces.is_empty() {
            self.by_size.remove(&class);
        }
        address
    }

    pub(super) fn put(&mut self, address: u64, class: usize) {
        self.by_size.entry(class).or_default().push(address);
    }

    pub(super) fn drain(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.by_size).into_values().flatten().collect()
    }
}
