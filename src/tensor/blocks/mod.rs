//! The quantised formats of GGUF, as they lie in a file: blocks of a row's numbers that share scales.
//!
//! `d`, `m` are half-precision scales; a quant is a small whole number. The formats whose names end in K nest: a block of
//! 256 has sub-blocks, whose own scales are small whole numbers, too. Layouts are GGML's, as the GGUF specification
//! (github.com/ggml-org/ggml, docs/gguf.md) refers to it. `widen` reads each format into `f32`, exactly; `narrow` writes
//! those that weights may be quantised to; `planes` puts blocks into the order in which a GPU reads them.

mod narrow;
mod packed;
mod planes;
mod widen;

use std::fmt;

pub(super) use packed::sub_scales;

/// A quantised format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// `d (q - 8)`, 4 bits
    Q4_0,
    /// `d q + m`, 4 bits
    Q4_1,
    /// `d (q - 16)`, 5 bits
    Q5_0,
    /// `d q + m`, 5 bits
    Q5_1,
    /// `d q`, 8 bits
    Q8_0,
    /// `d s q - m t`, 2 bits, 4 bits each of `s` and `t` for 16
    Q2K,
    /// `d s (q - 4)`, 3 bits, 6 bits of `s` for 16
    Q3K,
    /// `d s q - m t`, 4 bits, 6 bits each of `s` and `t` for 32
    Q4K,
    /// `d s q - m t`, 5 bits, 6 bits each of `s` and `t` for 32
    Q5K,
    /// `d s (q - 32)`, 6 bits, 8 bits of `s` for 16
    Q6K,
}

/// Numbers of a block of the plain formats.
pub(super) const SMALL: usize = 32;
/// Numbers of a block of those whose names end in K.
pub(super) const LARGE: usize = 256;

impl BlockFormat {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Numbers of a block.
    pub const fn values(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => SMALL,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => LARGE,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q2K => 16 + 64 + 4,
            Self::Q3K => 32 + 64 + 12 + 2,
            Self::Q4K => 4 + 12 + 128,
            Self::Q5K => 4 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of so many numbers; nothing where they are no whole number of blocks.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.values()) {
            (cols / self.values()).checked_mul(self.bytes())
        } else {
            None
        }
    }
}

impl BlockFormat {
    /// Its name, in which kernels' names end, too.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
