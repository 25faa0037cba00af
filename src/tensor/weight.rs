//! A weight where it lies: a shape and a window on a mapped file, or bytes of its own.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use memmap2::{Mmap, UncheckedAdvice};
use rayon::prelude::*;

use super::blocks::BlockFormat;
use super::device::{Device, Place};
use super::encoding::{ElementType, Encoding};
use super::error::{Result, TensorError, elsewhere};
use super::gpu;

/// A window that does not hold what its shape asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes cannot be {encoding} of shape {shape:?}")]
pub struct WeightError {
    encoding: Encoding,
    shape: Vec<usize>,
    bytes: usize,
}

/// A file mapped for reading. Cloning it clones a pointer; the last clone unmaps.
#[derive(Debug, Clone)]
pub struct MappedFile(Arc<Mmap>);

impl MappedFile {
    /// Maps the whole of a file. An empty file is an error, as nothing of it can be mapped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
        }
        // SAFETY: the file must keep its bytes while it is mapped. Files of the content-addressed store do: they are
        // written once and renamed into place. Those of a local folder are the operator's own, and nothing here can
        // hold them still: one that is shortened in place kills the process with SIGBUS, and one that is overwritten
        // in place changes the weights of a running version. So docs/images.md asks operators to replace files by
        // renaming new ones over them, which leaves the mapped bytes as they are.
        Ok(Self(Arc::new(unsafe { Mmap::map(&file)? })))
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

enum Bytes {
    Mapped {
        file: MappedFile,
        range: Range<usize>,
    },
    Owned(Box<[u8]>),
    /// On a GPU, where quantised ones lie in planes. The one in the host's memory stays, so that others find it by its
    /// content: one that is mapped costs no memory.
    Placed {
        buffer: gpu::Buffer,
        source: Weight,
    },
}

struct Inner {
    bytes: Bytes,
    encoding: Encoding,
    rows: usize,
    cols: usize,
    // Guards the one copy of a weight on a GPU, and the one in pinned memory: two versions that load it at the same time
    // must agree on one, and find-or-make is one step.
    copies: Mutex<Copies>,
}

/// Where else the bytes of a host's weight lie.
#[derive(Default)]
struct Copies {
    placed: WeakWeight,
    staged: Weak<gpu::Pinned>,
}

/// Holds a weight's bytes where a GPU gets them fastest. Dropping the last gives the memory back.
pub struct Staged(Option<Arc<gpu::Pinned>>);

impl Staged {
    /// Bytes of pinned memory.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |pinned| pinned.as_slice().len())
    }
}

/// A matrix `[rows, cols]`, or a vector as `[1, cols]`, row-major. Cloning it clones a pointer.
/// The bytes may lie at any address: kernels read them unaligned.
#[derive(Clone)]
pub struct Weight(Arc<Inner>);

/// A weight that does not keep itself alive.
#[derive(Clone, Default)]
pub struct WeakWeight(Weak<Inner>);

impl WeakWeight {
    /// The weight, if somebody still holds it.
    pub fn upgrade(&self) -> Option<Weight> {
        self.0.upgrade().map(Weight)
    }

    /// Whether somebody still holds the weight.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Weight {
    /// The window `range` of `file`, read as `shape` (one or two dimensions).
    pub fn mapped(
        file: &MappedFile,
        range: Range<usize>,
        encoding: impl Into<Encoding>,
        shape: &[usize],
    ) -> std::result::Result<Self, WeightError> {
        let encoding = encoding.into();
        let held = file.bytes().get(range.clone()).map_or(0, <[u8]>::len);
        let (rows, cols) = matrix(encoding, shape, held)?;
        let bytes = Bytes::Mapped { file: file.clone(), range };
        Ok(Self::of(bytes, encoding, rows, cols))
    }

    /// A weight with bytes of its own, read as `shape` (one or two dimensions).
    pub fn owned(
        bytes: Vec<u8>,
        encoding: impl Into<Encoding>,
        shape: &[usize],
    ) -> std::result::Result<Self, WeightError> {
        let encoding = encoding.into();
        let (rows, cols) = matrix(encoding, shape, bytes.len())?;
        Ok(Self::of(Bytes::Owned(bytes.into()), encoding, rows, cols))
    }

    fn of(bytes: Bytes, encoding: Encoding, rows: usize, cols: usize) -> Self {
        Self(Arc::new(Inner { bytes, encoding, rows, cols, copies: Mutex::default() }))
    }

    /// The same numbers in another encoding, as near as it can be, in memory of its own. Nothing where rows are no whole
    /// number of its blocks, or where it cannot be written.
    pub fn quantised(&self, format: BlockFormat) -> Option<Self> {
        let row_bytes = format.row_bytes(self.cols()).filter(|_| format.can_be_written())?;
        let mut bytes = vec![0; row_bytes * self.rows()].into_boxed_slice();
        bytes.par_chunks_exact_mut(row_bytes).enumerate().for_each_init(
            || vec![0.0; self.cols()],
            |row, (i, out)| {
                self.widen_row(i, row);
                format.narrow_into(row, out);
            },
        );
        self.release_pages();
        Some(Self::of(Bytes::Owned(bytes), format.into(), self.rows(), self.cols()))
    }

    /// The same numbers as elements of a type, each the nearest that there is: itself, where they are that already.
    #[must_use]
    pub fn rounded_to(&self, element: ElementType) -> Self {
        if self.encoding() == Encoding::Plain(element) {
            return self.clone();
        }
        let mut bytes = Vec::with_capacity(self.rows() * self.cols() * element.size());
        let mut row = vec![0.0; self.cols()];
        for i in 0..self.rows() {
            self.widen_row(i, &mut row);
            element.narrow_onto(&row, &mut bytes);
        }
        Self::of(Bytes::Owned(bytes.into()), element.into(), self.rows(), self.cols())
    }

    /// The weight on a device: itself on the host; on a GPU a copy there, which all who ask share while one of them
    /// holds it.
    pub fn on(&self, device: &Device) -> Result<Self> {
        let Place::Gpu(gpu) = &device.0 else { return Ok(self.clone()) };
        if self.placed().is_some() {
            return Ok(self.clone());
        }
        if matches!(self.encoding(), Encoding::Blocks(_)) && u32::try_from(self.bytes().len()).is_err() {
            let what = format!("a quantised matrix of {} bytes: a GPU takes up to 4 GiB", self.bytes().len());
            return Err(TensorError::shape("weight", what));
        }
        let mut copies = self.copies();
        if let Some(there) = copies.placed.upgrade() {
            return Ok(there);
        }
        let staged = copies.staged.upgrade();
        let buffer = match &staged {
            Some(staged) => gpu.place(staged.as_slice())?,
            None => gpu.place(&self.placed_bytes())?,
        };
        let bytes = Bytes::Placed { buffer, source: self.clone() };
        let there = Self::of(bytes, self.encoding(), self.rows(), self.cols());
        copies.placed = there.downgrade();
        self.release_pages();
        Ok(there)
    }

    /// Keeps the bytes of a weight of the host in pinned memory, from which [`Weight::on`] brings them to a GPU as fast as
    /// the two are connected. They come from the GPU, where they are there, and else from the host. Nothing to do where a
    /// device computes in the host's memory.
    pub fn stage(&self, device: &Device) -> Result<Staged> {
        let Place::Gpu(gpu) = &device.0 else { return Ok(Staged(None)) };
        if self.placed().is_some() {
            return Ok(Staged(None));
        }
        let mut copies = self.copies();
        if let Some(staged) = copies.staged.upgrade() {
            return Ok(Staged(Some(staged)));
        }
        let mut pinned = gpu.pinned(self.bytes().len())?;
        match copies.placed.upgrade() {
            Some(there) => there.read_back(pinned.as_mut_slice())?,
            None => pinned.as_mut_slice().copy_from_slice(&self.placed_bytes()),
        }
        self.release_pages();
        let pinned = Arc::new(pinned);
        copies.staged = Arc::downgrade(&pinned);
        Ok(Staged(Some(pinned)))
    }

    fn copies(&self) -> MutexGuard<'_, Copies> {
        self.0.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes as a GPU holds them: quantised ones in planes.
    fn placed_bytes(&self) -> Cow<'_, [u8]> {
        match self.encoding() {
            Encoding::Plain(_) => self.bytes().into(),
            Encoding::Blocks(format) => format.planes(self.bytes(), self.cols()).into(),
        }
    }

    /// Copies what a GPU holds of a weight to the host's memory, by a stream that does nothing else.
    fn read_back(&self, out: &mut [u8]) -> Result<()> {
        match self.placed() {
            Some(buffer) => buffer.gpu().read(buffer, out),
            None => Err(elsewhere("stage")),
        }
    }

    /// Rows: a linear layer's outputs.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Columns: a linear layer's inputs.
    pub fn cols(&self) -> usize {
        self.0.cols
    }

    /// How its numbers are stored.
    pub fn encoding(&self) -> Encoding {
        self.0.encoding
    }

    /// The type of its numbers: bfloat16's are as near to those of a quantised one as any.
    pub fn element(&self) -> ElementType {
        self.encoding().element()
    }

    /// All bytes, row-major: exactly `rows` rows of `cols` numbers each. Of a weight on a GPU, those of its source on the host.
    pub fn bytes(&self) -> &[u8] {
        match &self.0.bytes {
            Bytes::Mapped { file, range } => &file.bytes()[range.clone()],
            Bytes::Owned(bytes) => bytes,
            Bytes::Placed { source, .. } => source.bytes(),
        }
    }

    /// Where it lies on a GPU, if it does.
    pub(super) fn placed(&self) -> Option<&gpu::Buffer> {
        match &self.0.bytes {
            Bytes::Placed { buffer, .. } => Some(buffer),
            Bytes::Mapped { .. } | Bytes::Owned(_) => None,
        }
    }

    /// Bytes of one row.
    pub(super) fn row_bytes(&self) -> usize {
        self.bytes().len() / self.rows()
    }

    /// A reference that does not keep the weight alive.
    pub fn downgrade(&self) -> WeakWeight {
        WeakWeight(Arc::downgrade(&self.0))
    }

    /// Whether two handles are one weight.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Gives the pages of a mapped weight back to the system; reading it again brings them back from the file.
    /// A hint: a system that does not take it loses nothing.
    pub fn release_pages(&self) {
        if let Bytes::Mapped { file, range } = &self.0.bytes {
            // SAFETY: the mapping is read-only and backed by a file, so that a dropped page comes back as it was
            let _ =
                unsafe { file.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }

    /// Widens row `row` into `out`, which has `cols` places.
    ///
    /// # Panics
    /// If `row` is not below `rows`, or `out` is of another length.
    pub fn widen_row(&self, row: usize, out: &mut [f32]) {
        let size = self.row_bytes();
        let bytes = &self.bytes()[row * size..][..size];
        assert_eq!(out.len(), self.cols(), "a row of another width");
        self.encoding().widen_into(bytes, out);
    }
}

/// A gain or a bias: `f32` values on a device, whatever the checkpoint stored. Cloning it clones a pointer.
#[derive(Clone)]
pub struct Vector {
    values: Values,
    /// As it was stored: while somebody holds it, others find that it is loaded.
    source: Weight,
    /// What was added to each stored value.
    offset: f32,
    /// What a GPU gives that computes with it.
    element: ElementType,
}

#[derive(Clone)]
pub(super) enum Values {
    Host(Arc<[f32]>),
    /// On a GPU.
    Device(Arc<gpu::Buffer>),
}

impl Vector {
    /// The elements of a weight of one row, on a device.
    pub fn new(weight: &Weight, device: &Device) -> Result<Self> {
        Self::plus(weight, 0.0, device)
    }

    /// The same with `offset` added to each: some models store a gain as what it is more than 1.
    pub fn plus(weight: &Weight, offset: f32, device: &Device) -> Result<Self> {
        let Encoding::Plain(element) = weight.encoding() else {
            return Err(TensorError::shape("vector", format!("{}, which is quantised", weight.encoding())));
        };
        if weight.rows() != 1 {
            let what = format!("a matrix [{}, {}]", weight.rows(), weight.cols());
            return Err(TensorError::shape("vector", what));
        }
        let staged = weight.copies().staged.upgrade();
        let mut row = element.widen(staged.as_ref().map_or(weight.bytes(), |staged| staged.as_slice()));
        if offset != 0.0 {
            for value in &mut row {
                *value += offset;
            }
        }
        let values = match &device.0 {
            Place::Cpu => Values::Host(row.into()),
            Place::Gpu(gpu) => {
                let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                Values::Device(Arc::new(gpu.place(&bytes)?))
            }
        };
        Ok(Self { values, source: weight.clone(), offset, element })
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.source.cols()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same values, with which a GPU computes what is of another type than they are stored in.
    #[must_use]
    pub fn computed_in(self, element: ElementType) -> Self {
        Self { element, ..self }
    }

    /// The type of what a GPU computes with it: as it is stored, unless something else was said.
    pub const fn element(&self) -> ElementType {
        self.element
    }

    /// The same values on another device.
    pub fn on(&self, device: &Device) -> Result<Self> {
        Ok(Self::plus(&self.source, self.offset, device)?.computed_in(self.element))
    }

    pub(super) const fn values(&self) -> &Values {
        &self.values
    }
}

/// Rows and columns of `shape`, if `bytes` bytes are exactly that many numbers.
fn matrix(
    encoding: Encoding,
    shape: &[usize],
    bytes: usize,
) -> std::result::Result<(usize, usize), WeightError> {
    let wrong = || WeightError { encoding, shape: shape.to_vec(), bytes };
    let (rows, cols) = match shape {
        [cols] => (1, *cols),
        [rows, cols] => (*rows, *cols),
        _ => return Err(wrong()),
    };
    let asked = encoding.row_bytes(cols).and_then(|n| n.checked_mul(rows));
    if asked == Some(bytes) && bytes > 0 { Ok((rows, cols)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_refuses_bytes_that_are_not_its_shape() {
        for (bytes, shape) in [(8, &[3][..]), (0, &[0]), (16, &[2, 2, 2]), (8, &[usize::MAX, 2]), (8, &[])] {
            assert!(Weight::owned(vec![0; bytes], ElementType::F16, shape).is_err(), "{bytes} as {shape:?}");
        }
    }

    #[test]
    fn a_window_at_an_odd_address_reads_like_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        std::fs::write(&path, [&[7_u8][..], &1.5_f32.to_le_bytes(), &(-2.0_f32).to_le_bytes()].concat())
            .unwrap();
        let file = MappedFile::open(&path).unwrap();
        let weight = Weight::mapped(&file, 1..9, ElementType::F32, &[2]).unwrap();
        let mut row = [0.0; 2];
        weight.release_pages();
        weight.widen_row(0, &mut row);
        assert_eq!(row.map(f32::to_bits), [1.5_f32, -2.0].map(f32::to_bits));
        assert!(Weight::mapped(&file, 2..10, ElementType::F32, &[2]).is_err(), "a window past the end");
    }
}
