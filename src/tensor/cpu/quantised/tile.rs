//! Tiles of rows by outputs, over blocks.
//!
//! The products of a block's quants are whole numbers and are added up first, exactly. What floats are added up in is the
//! order of an output, whatever kernel computes it: of small blocks, eight running sums, of which block `b` belongs to sum
//! `b % 8`, and these in the order of [`Dots::sum`]; of large blocks, one.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

use std::ops::Range;

use super::super::ahead::{AHEAD, fetch_ahead};
use super::activations::{Activations, SUMMED};
use super::dots::Dots;
use crate::tensor::blocks::{LARGE, SMALL};

/// Running sums of an output over small blocks.
pub(super) const EIGHT: usize = 8;

/// A format of small blocks: one scale, and quants from -127 to 127.
pub(super) trait Small {
    /// Bytes of a block; its scale comes first.
    const BYTES: usize;
    /// # Safety
    /// A block lies at `p`, and the processor has `D`.
    unsafe fn quants<D: Dots>(p: *const u8) -> D::Bytes;
}

/// What the sub-blocks of a large block are multiplied with.
pub(super) struct Factors<D: Dots> {
    /// Of all.
    pub(super) d: f32,
    /// One for each 16 quants.
    pub(super) each: D::Words,
    /// What is taken away, of all.
    pub(super) m: f32,
    /// That, for each 16 activations.
    pub(super) less: D::Words,
}

/// A format of large blocks: quants from 0 to 63, with factors.
pub(super) trait Large {
    /// Bytes of a block.
    const BYTES: usize;
    /// Quants that have a scale together: 16 or 32.
    const GROUP: usize;
    /// # Safety
    /// A block lies at `p`, and the processor has `D`.
    unsafe fn factors<D: Dots>(p: *const u8) -> Factors<D>;
    /// Quants 0 to 127 or 128 to 255: half 0 or 1.
    ///
    /// # Safety
    /// As above.
    unsafe fn quants<D: Dots>(p: *const u8, half: usize) -> [D::Bytes; 4];
}

/// A product: rows of `x` with rows of weights that lie `stride` bytes apart.
pub(super) struct Product<'a> {
    pub(super) x: &'a Activations,
    pub(super) weights: *const u8,
    pub(super) stride: usize,
    /// `[rows, outs]`
    pub(super) y: *mut f32,
    pub(super) outs: usize,
}

// SAFETY: `multiply` gives each thread outputs of its own; what they share is only read
unsafe impl Sync for Product<'_> {}

impl Product<'_> {
    /// Computes outputs `outs` of every row.
    ///
    /// # Safety
    /// The processor has `D`; `weights` and `y` hold what the sizes say, and nobody else touches these outputs.
    #[inline(always)]
    pub(super) unsafe fn small<D: Dots, F: Small>(&self, outs: Range<usize>) {
        let rows = self.x.rows;
        let mut row = 0;
        while row < rows {
            // SAFETY: rows and outputs stay below what there is
            row += unsafe {
                match rows - row {
                    // memory is read in one stream: several short ones are fetched ahead badly
                    1 => self.small_band::<D, F, 1, 1>(row, outs.clone()),
                    2 => self.small_band::<D, F, 2, 3>(row, outs.clone()),
                    3 => self.small_band::<D, F, 3, 2>(row, outs.clone()),
                    _ => self.small_band::<D, F, 4, 2>(row, outs.clone()),
                }
            };
        }
    }

    #[inline(always)]
    unsafe fn small_band<D: Dots, F: Small, const R: usize, const O: usize>(
        &self,
        row: usize,
        outs: Range<usize>,
    ) -> usize {
        let mut out = outs.start;
        // SAFETY: `row + R` rows and `outs.end` outputs exist
        unsafe {
            while out + O <= outs.end {
                self.small_tile::<D, F, R, O>(row, out);
                out += O;
            }
            while out < outs.end {
                self.small_tile::<D, F, R, 1>(row, out);
                out += 1;
            }
        }
        R
    }

    #[inline(always)]
    unsafe fn small_tile<D: Dots, F: Small, const R: usize, const O: usize>(&self, row: usize, out: usize) {
        // SAFETY: `row + R` rows and `out + O` outputs exist, each of `width / SMALL` blocks
        unsafe {
            let quants: [*const u8; R] = std::array::from_fn(|r| self.x.quants(row + r));
            let scales: [*const f32; R] = std::array::from_fn(|r| self.x.scales(row + r));
            let weights: [*const u8; O] = std::array::from_fn(|o| self.weights.add((out + o) * self.stride));
            let mut sums = [[D::no_floats(); O]; R];
            let blocks = self.x.width / SMALL;
            let mut block = 0;
            while block + EIGHT <= blocks {
                for o in 0..O {
                    let w = weights[o].add(block * F::BYTES);
                    fetch_ahead(w.wrapping_add(AHEAD), EIGHT * F::BYTES);
                    let d = D::eight_halves(w, F::BYTES);
                    let mut eight = [D::no_bytes(); EIGHT];
                    for (i, quants) in eight.iter_mut().enumerate() {
                        *quants = F::quants::<D>(w.add(i * F::BYTES));
                    }
                    for r in 0..R {
                        let mut ints = [D::no_ints(); EIGHT];
                        for (i, ints) in ints.iter_mut().enumerate() {
                            *ints = D::dot(eight[i], D::bytes(quants[r].add((block + i) * SMALL)));
                        }
                        let scale = D::times(d, D::floats(scales[r].add(block)));
                        sums[r][o] = D::scale_add(scale, D::sums(ints), sums[r][o]);
                    }
                }
                block += EIGHT;
            }
            let rest = blocks - block;
            if rest > 0 {
                for o in 0..O {
                    let w = weights[o].add(block * F::BYTES);
                    for r in 0..R {
                        let (mut ints, mut scale) = ([D::no_ints(); EIGHT], [0.0; EIGHT]);
                        for i in 0..rest {
                            let w = w.add(i * F::BYTES);
                            ints[i] = D::dot(F::quants::<D>(w), D::bytes(quants[r].add((block + i) * SMALL)));
                            scale[i] = D::half(w) * *scales[r].add(block + i);
                        }
                        sums[r][o] = D::scale_add(D::floats(scale.as_ptr()), D::sums(ints), sums[r][o]);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (o, sum) in sums.iter().enumerate() {
                    *self.y.add((row + r) * self.outs + out + o) = D::sum(*sum);
                }
            }
        }
    }

    /// Computes outputs `outs` of every row.
    ///
    /// # Safety
    /// As [`small`](Self::small).
    #[inline(always)]
    pub(super) unsafe fn large<D: Dots, F: Large>(&self, outs: Range<usize>) {
        let rows = self.x.rows;
        let mut row = 0;
        while row < rows {
            // SAFETY: rows and outputs stay below what there is
            row += unsafe {
                match rows - row {
                    1 => self.large_band::<D, F, 1>(row, outs.clone()),
                    2 => self.large_band::<D, F, 2>(row, outs.clone()),
                    3 => self.large_band::<D, F, 3>(row, outs.clone()),
                    4..6 => self.large_band::<D, F, 4>(row, outs.clone()),
                    _ => self.large_band::<D, F, 6>(row, outs.clone()),
                }
            };
        }
    }

    #[inline(always)]
    unsafe fn large_band<D: Dots, F: Large, const R: usize>(&self, row: usize, outs: Range<usize>) -> usize {
        for out in outs {
            // SAFETY: `row + R` rows and this output exist
            unsafe { self.large_tile::<D, F, R>(row, out) };
        }
        R
    }

    /// One output: what unpacking its weights costs is shared by the rows.
    #[inline(always)]
    unsafe fn large_tile<D: Dots, F: Large, const R: usize>(&self, row: usize, out: usize) {
        // SAFETY: `row + R` rows and the output exist, each of `width / LARGE` blocks
        unsafe {
            let quants: [*const u8; R] = std::array::from_fn(|r| self.x.quants(row + r));
            let scales: [*const f32; R] = std::array::from_fn(|r| self.x.scales(row + r));
            let summed: [*const i16; R] = std::array::from_fn(|r| self.x.sums(row + r));
            let weights = self.weights.add(out * self.stride);
            let mut sums = [0.0; R];
            for block in 0..self.x.width / LARGE {
                let w = weights.add(block * F::BYTES);
                fetch_ahead(w.wrapping_add(AHEAD), F::BYTES);
                let Factors { d, each, m, less } = F::factors::<D>(w);
                let each = [
                    D::pick::<0>(each),
                    D::pick::<1>(each),
                    D::pick::<2>(each),
                    D::pick::<3>(each),
                    D::pick::<4>(each),
                    D::pick::<5>(each),
                    D::pick::<6>(each),
                    D::pick::<7>(each),
                ];
                let mut ints = [D::no_ints(); R];
                for half in 0..2 {
                    let four = F::quants::<D>(w, half);
                    // the halves are summed apart: neither waits for the other
                    let mut sums = [D::no_ints(); R];
                    for (i, w) in four.into_iter().enumerate() {
                        let part = 4 * half + i;
                        for (sum, x) in sums.iter_mut().zip(quants) {
                            let pairs = D::pairs(w, D::bytes(x.add(block * LARGE + 32 * part)));
                            *sum = D::add_dot_words(*sum, pairs, each[part]);
                        }
                    }
                    for (ints, sum) in ints.iter_mut().zip(sums) {
                        *ints = D::add(*ints, sum);
                    }
                }
                for r in 0..R {
                    let scale = *scales[r].add(block);
                    let sums_of_16 = D::words(summed[r].add(block * (LARGE / SUMMED)));
                    let taken = D::add_dot_words(D::no_ints(), sums_of_16, less);
                    sums[r] = D::scale_add_one(d * scale, D::total(ints[r]), sums[r]);
                    sums[r] = D::scale_add_one(-m * scale, D::total(taken), sums[r]);
                }
            }
            for (r, sum) in sums.iter().enumerate() {
                *self.y.add((row + r) * self.outs + out) = *sum;
            }
        }
    }
}
