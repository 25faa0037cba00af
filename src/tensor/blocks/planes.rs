//! Blocks in the order in which a GPU reads them: the same bytes, in planes.
//!
//! A block of 18 to 210 bytes is aligned to nothing. So a device holds each field of all blocks in a plane of its own, row by
//! row, one plane behind the other: the lower bits of the quants, their upper bits, the scales of sub-blocks as they are
//! packed, and the half-precision scales. Within the planes of quants the numbers of 128 columns are in the order in which the
//! kernels take them; `kernels/blocks.cuh` says which and why.

use std::ops::Range;

use rayon::prelude::*;

use super::{BlockFormat, LARGE, SMALL};

/// Columns that four lanes of a warp take together, in groups of [`SMALL`].
const CHUNK: usize = 128;
/// Numbers of a group that a lane takes.
const EACH: usize = 8;
/// Bytes of rows that a thread rearranges at once.
const TASK_BYTES: usize = 1 << 20;

/// The planes of a format: what each has of a block.
struct Layout {
    /// Bits of a quant in the first plane and in the second.
    bits: [usize; 2],
    /// Bytes of a block that make the third plane and the fourth.
    scales: [Range<usize>; 2],
}

impl Layout {
    const fn of(format: BlockFormat) -> Self {
        let (bits, scales) = match format {
            BlockFormat::Q4_0 => ([4, 0], [0..0, 0..2]),
            BlockFormat::Q4_1 => ([4, 0], [0..0, 0..4]),
            BlockFormat::Q5_0 => ([4, 1], [0..0, 0..2]),
            BlockFormat::Q5_1 => ([4, 1], [0..0, 0..4]),
            BlockFormat::Q8_0 => ([8, 0], [0..0, 0..2]),
            BlockFormat::Q2K => ([2, 0], [0..16, 80..84]),
            BlockFormat::Q3K => ([2, 1], [96..108, 108..110]),
            BlockFormat::Q4K => ([4, 0], [4..16, 0..4]),
            BlockFormat::Q5K => ([4, 1], [4..16, 0..4]),
            BlockFormat::Q6K => ([4, 2], [192..208, 208..210]),
        };
        Self { bits, scales }
    }

    /// Bytes of a row of so many columns in each plane.
    fn row_bytes(&self, format: BlockFormat, cols: usize) -> [usize; 4] {
        let [low, high] = self.bits.map(|bits| cols / 8 * bits);
        let blocks = cols / format.values();
        [low, high, blocks * self.scales[0].len(), blocks * self.scales[1].len()]
    }
}

impl BlockFormat {
    /// The bytes of rows of so many columns, rearranged: as many.
    pub(in crate::tensor) fn planes(self, bytes: &[u8], cols: usize) -> Vec<u8> {
        let layout = Layout::of(self);
        let row_bytes = cols / self.values() * self.bytes();
        let rows = bytes.len() / row_bytes;
        let sizes = layout.row_bytes(self, cols);
        let mut out = vec![0; bytes.len()];
        let at_once = (TASK_BYTES / row_bytes).max(1);
        let (low, rest) = out.split_at_mut(rows * sizes[0]);
        let (high, rest) = rest.split_at_mut(rows * sizes[1]);
        let (scales, halves) = rest.split_at_mut(rows * sizes[2]);
        let shares = |plane, size: usize| shares(plane, at_once * size, rows.div_ceil(at_once));
        let planes = shares(low, sizes[0]).into_par_iter().zip(shares(high, sizes[1]));
        let planes = planes.zip(shares(scales, sizes[2])).zip(shares(halves, sizes[3]));
        bytes.par_chunks(at_once * row_bytes).zip(planes).for_each_init(
            || vec![0; cols],
            |codes, (bytes, (((low, high), scales), halves))| {
                for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
                    let of = |size: usize| row * size..(row + 1) * size;
                    for (block, codes) in
                        bytes.chunks_exact(self.bytes()).zip(codes.chunks_exact_mut(self.values()))
                    {
                        self.codes(block, codes);
                    }
                    let [lower, upper] = layout.bits;
                    self.spread(codes, 0, lower, &mut low[of(sizes[0])]);
                    if upper > 0 {
                        self.spread(codes, lower, upper, &mut high[of(sizes[1])]);
                    }
                    gather(bytes, self.bytes(), &layout.scales[0], &mut scales[of(sizes[2])]);
                    gather(bytes, self.bytes(), &layout.scales[1], &mut halves[of(sizes[3])]);
                }
            },
        );
        out
    }

    /// Bits `first` to `first + bits` of a row's quants, into a plane that is zero.
    fn spread(self, codes: &[u8], first: usize, bits: usize, plane: &mut [u8]) {
        let mask = (1_u16 << bits) - 1;
        for (chunk, plane) in codes.chunks(CHUNK).zip(plane.chunks_mut(CHUNK / 8 * bits)) {
            let groups = chunk.len() / SMALL;
            for (s, codes) in chunk.chunks_exact(SMALL).enumerate() {
                for lane in 0..4 {
                    let part = &mut plane[(lane * groups + s) * bits..][..bits];
                    for i in 0..EACH {
                        let code = u16::from(codes[self.place(lane, i)]) >> first & mask;
                        // bytes in order; smaller fields such that a pair is half a word apart
                        let field = if bits == 8 { i } else { i / 2 + EACH / 2 * (i % 2) };
                        part[field * bits / 8] |= (code << (field * bits % 8)) as u8;
                    }
                }
            }
        }
    }

    /// Where in a group a lane finds its number `i`: half a group has a scale of its own in some formats, and is one step of
    /// the tensor cores then.
    const fn place(self, lane: usize, i: usize) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 4 * lane + i % 4 + 16 * (i / 4),
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Q4K | Self::Q5K => {
                EACH * lane + i
            }
        }
    }

    /// The quants of a block as they are stored, in the order of its numbers.
    fn codes(self, block: &[u8], out: &mut [u8]) {
        let fifth = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let nibble = |quants: &[u8], i: usize| quants[i % 16] >> (4 * (i / 16)) & 15;
        let quarter =
            |quants: &[u8], i: usize| quants[32 * (i / (LARGE / 2)) + i % 32] >> (2 * (i / 32 % 4)) & 3;
        let half = |quants: &[u8], i: usize| quants[32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2)) & 15;
        for (i, out) in out.iter_mut().enumerate() {
            *out = match self {
                Self::Q4_0 => nibble(&block[2..], i),
                Self::Q4_1 => nibble(&block[4..], i),
                Self::Q5_0 => nibble(&block[6..], i) | ((fifth(2) >> i & 1) << 4) as u8,
                Self::Q5_1 => nibble(&block[8..], i) | ((fifth(4) >> i & 1) << 4) as u8,
                Self::Q8_0 => block[2 + i],
                Self::Q2K => quarter(&block[16..], i),
                Self::Q3K => quarter(&block[32..], i) | (block[i % 32] >> (i / 32) & 1) << 2,
                Self::Q4K => half(&block[16..], i),
                Self::Q5K => half(&block[48..], i) | (block[16 + i % 32] >> (i / 32) & 1) << 4,
                Self::Q6K => {
                    let low = block[64 * (i / 128) + i % 64] >> (4 * (i % 128 / 64)) & 15;
                    low | quarter(&block[128..], i) << 4
                }
            };
        }
    }
}

/// A plane in `count` shares of so many bytes; one that a format has nothing in, in empty ones.
fn shares(plane: &mut [u8], bytes: usize, count: usize) -> Vec<&mut [u8]> {
    let mut shares: Vec<&mut [u8]> = plane.chunks_mut(bytes.max(1)).collect();
    shares.resize_with(count, Default::default);
    shares
}

/// Field `which` of each block of a row.
fn gather(blocks: &[u8], size: usize, which: &Range<usize>, out: &mut [u8]) {
    if which.is_empty() {
        return;
    }
    for (block, out) in blocks.chunks_exact(size).zip(out.chunks_exact_mut(which.len())) {
        out.copy_from_slice(&block[which.clone()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::reference::blocks;

    #[test]
    fn planes_have_the_bits_of_the_blocks() {
        for format in BlockFormat::ALL {
            for (rows, cols) in [(1, format.values()), (3, 5 * format.values()), (2, 4096)] {
                let weight = blocks(format, rows, cols);
                let planes = format.planes(weight.bytes(), cols);
                let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
                assert_eq!(
                    (planes.len(), ones(&planes)),
                    (weight.bytes().len(), ones(weight.bytes())),
                    "{format}"
                );
            }
        }
    }

    /// A number's code, its lane and its place there, told one by one.
    #[test]
    fn a_quant_is_where_the_kernels_look_for_it() {
        let mut block = vec![0; BlockFormat::Q4_0.bytes() * 4];
        // of the third block of a row, number 21 is 9: lane 2's sixth, so field 6
        block[2 * 18 + 2 + 5] = 9 << 4;
        let planes = BlockFormat::Q4_0.planes(&block, 128);
        let expected = (2 * 4 + 2) * 4 + 3;
        assert_eq!(planes.iter().position(|byte| *byte != 0), Some(expected));
        assert_eq!(planes[expected], 9);

        // alone in its row: two groups of a lane beside each other
        let planes = BlockFormat::Q8_0.planes(&[&[0; 34][..], &[0, 0], &[7; 32]].concat(), 64);
        assert_eq!(planes[..16], [[0; 8], [7; 8]].concat());
    }
}
