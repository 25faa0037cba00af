//! Lists of numbers that go to a device together, in one copy.

use std::sync::Arc;

use super::driver::Gpu;
use super::memory::Buffer;
use crate::tensor::error::{Result, TensorError};

/// A list begins at a whole number of so many words, where a kernel may read 16 bytes at once.
const ALIGNMENT: usize = 4;

/// A list of numbers in a buffer that several lists share.
#[derive(Debug, Clone)]
pub(in crate::tensor) struct Indices {
    buffer: Arc<Buffer>,
    /// In words.
    first: usize,
    len: usize,
}

/// Lists that are being put together.
#[derive(Default)]
pub(super) struct Lists {
    words: Vec<u32>,
    /// Where each begins, and how long it is.
    spans: Vec<(usize, usize)>,
}

impl Indices {
    pub(super) const fn new(buffer: Arc<Buffer>, first: usize, len: usize) -> Self {
        Self { buffer, first, len }
    }

    pub(in crate::tensor) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn gpu(&self) -> &Gpu {
        self.buffer.gpu()
    }

    pub(super) fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// In bytes.
    pub(super) const fn offset(&self) -> usize {
        self.first * size_of::<u32>()
    }
}

impl Lists {
    /// The words between two lists of this length.
    pub(super) const fn stride(len: usize) -> usize {
        len.next_multiple_of(ALIGNMENT)
    }

    pub(super) fn add(&mut self, list: impl IntoIterator<Item = u32>) {
        self.add_filled(list, 0, 0);
    }

    /// A list that is filled up to a length.
    pub(super) fn add_filled(&mut self, list: impl IntoIterator<Item = u32>, len: usize, filling: u32) {
        let first = Self::stride(self.words.len());
        self.words.resize(first, 0);
        self.words.extend(list);
        self.words.resize(self.words.len().max(first + len), filling);
        self.spans.push((first, self.words.len() - first));
    }

    /// Brings them to a device, for one pass.
    pub(super) fn upload<const N: usize>(self, gpu: &Gpu) -> Result<[Indices; N]> {
        let buffer = Arc::new(gpu.scratch(self.words.len() * size_of::<u32>())?);
        self.write_to(&buffer)?;
        let list = |(first, len): &(usize, usize)| Indices::new(Arc::clone(&buffer), *first, *len);
        let lists: Vec<Indices> = self.spans.iter().map(list).collect();
        lists.try_into().map_err(|lists: Vec<_>| {
            TensorError::shape("upload", format!("{} lists where {N} are taken", lists.len()))
        })
    }

    /// Brings them to a buffer, each where [`Lists::stride`] says that it lies.
    pub(super) fn write_to(&self, buffer: &Buffer) -> Result<()> {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        if bytes.len() > buffer.bytes() {
            let what = format!("{} bytes of lists in a buffer of {}", bytes.len(), buffer.bytes());
            return Err(TensorError::shape("upload", what));
        }
        buffer.gpu().write(buffer, &bytes)
    }
}
