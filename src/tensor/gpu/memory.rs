//! Pieces of a device's memory, and of the host's that the device reads by itself.

#![allow(unsafe_code)]

use std::collections::BTreeMap;

use super::driver::Gpu;

/// Sizes are whole numbers of this.
const GRAIN: usize = 512;

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
    /// The next tensor that fits gets it: it must not be read or written by anybody outside the stream.
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

/// Page-locked memory of the host: copies between it and the device run at the speed of what connects them. Dropping it
/// gives it back.
#[derive(Debug)]
pub(in crate::tensor) struct Pinned {
    gpu: Gpu,
    memory: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory, as a box does
unsafe impl Send for Pinned {}
// SAFETY: as above; shared, it is only read
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Of memory that has so many bytes, all of them written.
    pub(super) const fn new(gpu: Gpu, memory: *mut u8, bytes: usize) -> Self {
        Self { gpu, memory, bytes }
    }

    pub(in crate::tensor) const fn as_slice(&self) -> &[u8] {
        // SAFETY: so many bytes lie there, zeroes at first, and nobody else has them
        unsafe { std::slice::from_raw_parts(self.memory, self.bytes) }
    }

    pub(in crate::tensor) const fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.gpu.free_pinned(self.memory, self.bytes);
    }
}

/// Pieces that tensors gave back. A tensor gets the smallest that is large enough, however much larger: a pass over as
/// many rows as ever come leaves pieces for all passes over fewer, and the device is not asked again.
#[derive(Debug, Default)]
pub(super) struct Recycled {
    by_size: BTreeMap<usize, Vec<u64>>,
    /// Recordings that write to pieces, wherever those are.
    pub(super) graphs: usize,
}

impl Recycled {
    /// The size of the piece that is made for a tensor of so many bytes: up to an eighth more, so that not each number of
    /// rows has sizes of its own.
    pub(super) fn class(bytes: usize) -> usize {
        let step = (bytes.next_power_of_two() / 16).max(GRAIN);
        bytes.max(1).next_multiple_of(step)
    }

    /// A piece of at least this size, and its own.
    pub(super) fn take(&mut self, class: usize) -> Option<(u64, usize)> {
        let (size, pieces) = self.by_size.range_mut(class..).next()?;
        let (size, address) = (*size, pieces.pop()?);
        if pieces.is_empty() {
            self.by_size.remove(&size);
        }
        Some((address, size))
    }

    pub(super) fn put(&mut self, address: u64, size: usize) {
        self.by_size.entry(size).or_default().push(address);
    }

    pub(super) fn drain(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.by_size).into_values().flatten().collect()
    }
}
