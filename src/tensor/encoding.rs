//! How the numbers of a weight are stored: one by one, or in blocks that share a scale.

use std::fmt;

use super::blocks::BlockFormat;

/// How an element is stored, little-endian.
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

    /// Its short name, in which kernels' names end, too.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// The nearest number that can be stored so.
    pub fn rounded(self, x: f32) -> f32 {
        match self {
            Self::Bf16 => half::bf16::from_f32(x).to_f32(),
            Self::F16 => half::f16::from_f32(x).to_f32(),
            Self::F32 => x,
        }
    }

    /// Stored elements as `f32`, exactly.
    pub(super) fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / self.size()];
        self.widen_into(bytes, &mut out);
        out
    }

    /// The nearest stored elements, behind what is there.
    pub(super) fn narrow_onto(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Self::Bf16 => bytes.extend(values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())),
            Self::F16 => bytes.extend(values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes())),
            Self::F32 => bytes.extend(values.iter().flat_map(|x| x.to_le_bytes())),
        }
    }

    fn widen_into(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::Bf16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = half::bf16::from_le_bytes(*b).to_f32();
                }
            }
            Self::F16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = half::f16::from_le_bytes(*b).to_f32();
                }
            }
            Self::F32 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
        }
    }
}

/// How the numbers of a weight are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One by one.
    Plain(ElementType),
    /// Quantised, in blocks of a row.
    Blocks(BlockFormat),
}

impl Encoding {
    /// Bytes of a row of so many numbers; nothing where they are no whole number of blocks.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        match self {
            Self::Plain(element) => cols.checked_mul(element.size()),
            Self::Blocks(format) => format.row_bytes(cols),
        }
    }

    /// The type of the numbers: their own, or bfloat16 where they are quantised.
    pub const fn element(self) -> ElementType {
        match self {
            Self::Plain(element) => element,
            Self::Blocks(_) => ElementType::Bf16,
        }
    }

    /// A whole number of rows as `f32`, exactly.
    pub(super) fn widen_into(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::Plain(element) => element.widen_into(bytes, out),
            Self::Blocks(format) => format.widen_into(bytes, out),
        }
    }
}

impl From<ElementType> for Encoding {
    fn from(element: ElementType) -> Self {
        Self::Plain(element)
    }
}

impl From<BlockFormat> for Encoding {
    fn from(format: BlockFormat) -> Self {
        Self::Blocks(format)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(element) => f.write_str(element.name()),
            Self::Blocks(format) => format.fmt(f),
        }
    }
}
