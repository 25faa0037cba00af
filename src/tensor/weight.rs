//! A weight where it lies: a shape and a window on a mapped file.

use std::sync::Arc;

use memmap2::Mmap;

/// How an element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// bfloat16
    Bf16,
    /// IEEE half precision
    F16,
    /// IEEE single precision
    F32,
}

impl ElementType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// A window that does not hold what its shape asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes cannot be {element:?} of shape {shape:?}")]
pub struct WeightError {
    element: ElementType,
    shape: Vec<usize>,
    bytes: usize,
}

/// A matrix `[rows, cols]`, or a vector as `[1, cols]`, row-major, little-endian, in a mapped file.
/// Cloning it clones a pointer.
#[derive(Clone)]
pub struct Weight {
    file: Arc<Mmap>,
    start: usize,
    element: ElementType,
    rows: usize,
    cols: usize,
}

impl Weight {
    /// The window `range` of `file`, read as `shape` (one or two dimensions).
    pub fn new(
        file: Arc<Mmap>,
        range: std::ops::Range<usize>,
        element: ElementType,
        shape: &[usize],
    ) -> Result<Self, WeightError> {
        let wrong = || WeightError { element, shape: shape.to_vec(), bytes: range.len() };
        let (rows, cols) = match shape {
            [cols] => (1, *cols),
            [rows, cols] => (*rows, *cols),
            _ => return Err(wrong()),
        };
        let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(element.size()));
        if bytes != Some(range.len()) || range.end > file.len() {
            return Err(wrong());
        }
        Ok(Self { file, start: range.start, element, rows, cols })
    }

    /// Rows: a linear layer's outputs.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: a linear layer's inputs.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// How an element is stored.
    pub const fn element(&self) -> ElementType {
        self.element
    }

    /// All bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.file[self.start..self.start + self.rows * self.cols * self.element.size()]
    }

    /// Widens row `row` into `out`, which has `cols` places.
    ///
    /// # Panics
    /// If `row` is not below `rows`, or `out` is of another length.
    pub fn widen_row(&self, row: usize, out: &mut [f32]) {
        let size = self.cols * self.element.size();
        let bytes = &self.bytes()[row * size..][..size];
        assert_eq!(out.len(), self.cols, "a row of another width");
        match self.element {
            ElementType::Bf16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
            ElementType::F16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = half::f16::from_le_bytes(*b).to_f32();
                }
            }
            ElementType::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
        }
    }
}
