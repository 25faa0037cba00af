//! `y = x Wᵀ` with weights as stored, widened in the register.
//!
//! An output element is one vector of running sums over `in`, taken in order and added up at the end in one
//! order. Tiles of several rows by several outputs only decide which elements are computed together, so that
//! a weight that was widened serves all rows of a tile; they never change an element's own order.

#![allow(unsafe_code)]
#![allow(clippy::inline_always)]

use std::ops::Range;

use super::ahead::{AHEAD, fetch_ahead};
use super::isa::{Isa, Kernel, Level, MOST_LANES, dispatch};
use super::quantised;
use super::team::{self, TaskSize};
use crate::tensor::encoding::{ElementType, Encoding};
use crate::tensor::weight::Weight;

/// Multiplications below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 17;
/// The most bytes of weights that one task takes. It reads them once for each tile of rows, so they should stay in the
/// processor's L2 cache; where there is one row, they are read once.
const TASK_BYTES: usize = 256 << 10;
/// Vectors of one row of weights between two looks ahead, where there is one row of activations.
const STRETCH: usize = 4;
/// Bytes of input rows that are computed in one go. Every task reads all of them, so they should stay in the L2 cache
/// beside the task's weights.
const BLOCK_BYTES: usize = 384 << 10;

/// `x` is `[rows, in]`, `y` takes `[rows, out]`, for a weight `[out, in]`.
///
/// # Panics
/// If `x` or `y` is not a whole number of rows of the weight's sizes, or not the same number.
pub(in crate::tensor) fn linear(level: Level, x: &[f32], weight: &Weight, y: &mut [f32]) {
    let element = match weight.encoding() {
        Encoding::Plain(element) => element,
        Encoding::Blocks(format) => return quantised::multiply(level, x, weight, format, y),
    };
    let (outs, width) = (weight.rows(), weight.cols());
    fits([x.len(), y.len()], [outs, width]);
    // a whole number of the tallest tiles, so that only the last block has a rest; a row that is larger than a block
    // still is computed
    let per_block = (BLOCK_BYTES / (width * size_of::<f32>())).max(1).next_multiple_of(12);
    for (x, y) in x.chunks(per_block * width).zip(y.chunks_mut(per_block * outs)) {
        let grid = Grid::of(x, weight.bytes().as_ptr(), element, [outs, width], y);
        // SAFETY: the pointers are of slices that hold these rows and outputs, checked above, and `y` is ours alone
        unsafe { share_out(level, grid, outs) };
    }
}

/// The same on the calling thread, for weights `[out, width]` that are `f32` already.
///
/// # Panics
/// As [`linear`].
pub(super) fn linear_f32(level: Level, x: &[f32], weights: &[f32], width: usize, y: &mut [f32]) {
    let outs = weights.len() / width;
    fits([x.len(), y.len()], [outs, width]);
    let grid = Grid::of(x, weights.as_ptr().cast(), ElementType::F32, [outs, width], y);
    // SAFETY: the pointers are of slices that hold these rows and outputs, checked above, and `y` is ours alone
    unsafe { grid.compute(level, 0..outs) };
}

/// [`linear`] on the calling thread, for a weight that is not quantised.
///
/// # Panics
/// As [`linear`], or if the weight is quantised.
pub(super) fn linear_alone(level: Level, x: &[f32], weight: &Weight, y: &mut [f32]) {
    let Encoding::Plain(element) = weight.encoding() else {
        panic!("a quantised weight where a plain one is taken")
    };
    let (outs, width) = (weight.rows(), weight.cols());
    fits([x.len(), y.len()], [outs, width]);
    let grid = Grid::of(x, weight.bytes().as_ptr(), element, [outs, width], y);
    // SAFETY: the pointers are of slices that hold these rows and outputs, checked above, and `y` is ours alone
    unsafe { grid.compute(level, 0..outs) };
}

/// Panics where so many numbers in and out are not the same number of whole rows of a weight `[outs, width]`.
fn fits([x, y]: [usize; 2], [outs, width]: [usize; 2]) {
    let rows = x / width;
    assert!(x == rows * width && y == rows * outs, "rows of another width");
}

/// Computes all `outs` outputs of `grid`, on several threads if it is worth it.
///
/// # Safety
/// `x` and `w` hold what the sizes say, with `outs` rows of `w`; `y` has `outs` places a row, and nobody else
/// touches them.
unsafe fn share_out(level: Level, grid: Grid, outs: usize) {
    if grid.rows * outs * grid.width < WORTH_A_THREAD {
        // SAFETY: the caller's promise
        return unsafe { grid.compute(level, 0..outs) };
    }
    let row_bytes = grid.width * grid.element.size();
    let most = if grid.rows == 1 { outs } else { TASK_BYTES / row_bytes };
    // a whole number of the widest tiles
    let size = TaskSize { most, row_bytes, unit: 24 };
    team::consume(team::shares(outs, size), |share| {
        // SAFETY: the caller's promise; no two tasks have an output in common
        unsafe { grid.compute(level, share) };
    });
}

/// The products of `rows` contiguous rows of `x` with rows of `w` that lie `w_stride` elements apart.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) x: *const f32,
    pub(super) rows: usize,
    pub(super) w: *const u8,
    pub(super) element: ElementType,
    pub(super) w_stride: usize,
    pub(super) width: usize,
    pub(super) y: *mut f32,
    pub(super) y_stride: usize,
}

// SAFETY: `linear` gives each thread outputs of its own; what they share is only read
unsafe impl Send for Grid {}
// SAFETY: as above
unsafe impl Sync for Grid {}

impl Grid {
    /// All rows of `x` and `y`, with a whole weight `[outs, width]` that lies at `w`.
    fn of(x: &[f32], w: *const u8, element: ElementType, [outs, width]: [usize; 2], y: &mut [f32]) -> Self {
        let (rows, y) = (x.len() / width, y.as_mut_ptr());
        Self { x: x.as_ptr(), rows, w, element, w_stride: width, width, y, y_stride: outs }
    }

    /// Computes outputs `outs` of every row with the set `level`.
    ///
    /// # Safety
    /// `x`, `w` and `y` hold what the sizes say, and nobody else touches these outputs.
    ///
    /// # Panics
    /// If the processor does not have `level`.
    unsafe fn compute(&self, level: Level, outs: Range<usize>) {
        dispatch(level, Part { grid: *self, outs });
    }

    /// Computes outputs `outs` of every row.
    ///
    /// # Safety
    /// The processor has `I`; `x`, `w` and `y` hold what the sizes say, and nobody else touches these outputs.
    #[inline(always)]
    pub(super) unsafe fn run<I: Isa>(self, outs: Range<usize>) {
        // SAFETY: the caller's promise
        unsafe {
            match self.element {
                ElementType::Bf16 => self.sweep::<I, Bf16>(outs),
                ElementType::F16 => self.sweep::<I, F16>(outs),
                ElementType::F32 => self.sweep::<I, F32>(outs),
            }
        }
    }

    #[inline(always)]
    unsafe fn sweep<I: Isa, E: Element>(self, outs: Range<usize>) {
        let (start, end) = (outs.start, outs.end);
        let mut row = 0;
        while row < self.rows {
            let left = self.rows - row;
            // One row is bound by memory, which is read in one stream for it: several short ones beside each other are fetched
            // ahead badly.
            // SAFETY: rows and outputs stay below the grid's
            row += unsafe {
                if I::MANY_REGISTERS {
                    match left {
                        1 => self.band::<I, E, 1, 1>(row, start, end),
                        2 => self.band::<I, E, 2, 8>(row, start, end),
                        3 => self.band::<I, E, 3, 4>(row, start, end),
                        4 => self.band::<I, E, 4, 4>(row, start, end),
                        5 => self.band::<I, E, 5, 4>(row, start, end),
                        _ => self.band::<I, E, 6, 4>(row, start, end),
                    }
                } else {
                    match left {
                        1 => self.band::<I, E, 1, 1>(row, start, end),
                        2 => self.band::<I, E, 2, 4>(row, start, end),
                        3 => self.band::<I, E, 3, 3>(row, start, end),
                        _ => self.band::<I, E, 4, 3>(row, start, end),
                    }
                }
            };
        }
    }

    /// `R` rows from `row`, tiles of `O` outputs. Gives `R`.
    #[inline(always)]
    unsafe fn band<I: Isa, E: Element, const R: usize, const O: usize>(
        self,
        row: usize,
        start: usize,
        end: usize,
    ) -> usize {
        let mut out = start;
        // SAFETY: `row + R` rows and `end` outputs exist
        unsafe {
            while out + O <= end {
                self.tile::<I, E, R, O>(row, out);
                out += O;
            }
            while out < end {
                self.tile::<I, E, R, 1>(row, out);
                out += 1;
            }
        }
        R
    }

    #[inline(always)]
    unsafe fn tile<I: Isa, E: Element, const R: usize, const O: usize>(self, row: usize, out: usize) {
        // SAFETY: `row + R` rows and `out + O` outputs exist, and `k + LANES` does not pass `width`
        unsafe {
            let x = self.x.add(row * self.width);
            let w = self.w.add(out * self.w_stride * E::SIZE);
            let mut sums = [[I::splat(0.0); O]; R];
            let mut k = 0;
            if R == 1 && O == 1 {
                let stretch = STRETCH * I::LANES;
                while k + stretch <= self.width {
                    fetch_ahead(w.add(k * E::SIZE).wrapping_add(AHEAD), stretch * E::SIZE);
                    for i in 0..STRETCH {
                        let at = k + i * I::LANES;
                        sums[0][0] =
                            I::fma(I::load(x.add(at)), E::load::<I>(w.add(at * E::SIZE)), sums[0][0]);
                    }
                    k += stretch;
                }
            }
            while k + I::LANES <= self.width {
                let mut ws = [I::splat(0.0); O];
                for (o, wide) in ws.iter_mut().enumerate() {
                    let at = w.add((o * self.w_stride + k) * E::SIZE);
                    if row == 0 && O > 1 {
                        // the next tile's; later rows find them in the cache
                        fetch_ahead(at.wrapping_add(O * self.w_stride * E::SIZE), 1);
                    }
                    *wide = E::load::<I>(at);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let xs = I::load(x.add(r * self.width + k));
                    for (sum, wide) in sums.iter_mut().zip(ws) {
                        *sum = I::fma(xs, wide, *sum);
                    }
                }
                k += I::LANES;
            }
            if k < self.width {
                let rest = self.width - k;
                let mut ws = [I::splat(0.0); O];
                for (o, wide) in ws.iter_mut().enumerate() {
                    let mut padded = [0.0; MOST_LANES];
                    for (i, p) in padded[..rest].iter_mut().enumerate() {
                        *p = E::one(w.add((o * self.w_stride + k + i) * E::SIZE));
                    }
                    *wide = I::load(padded.as_ptr());
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let mut padded = [0.0; MOST_LANES];
                    x.add(r * self.width + k).copy_to_nonoverlapping(padded.as_mut_ptr(), rest);
                    let xs = I::load(padded.as_ptr());
                    for (sum, wide) in sums.iter_mut().zip(ws) {
                        *sum = I::fma(xs, wide, *sum);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (o, sum) in sums.iter().enumerate() {
                    *self.y.add((row + r) * self.y_stride + out + o) = I::sum(*sum);
                }
            }
        }
    }
}

/// Work of [`Grid::compute`], whose caller has made its promises before there is one.
struct Part {
    grid: Grid,
    outs: Range<usize>,
}

impl Kernel for Part {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        // SAFETY: the processor has `I`, as `dispatch` checked; the rest `compute`'s caller promised
        unsafe { self.grid.run::<I>(self.outs) }
    }
}

/// How a stored element becomes an `f32`; exact for all three.
trait Element {
    const SIZE: usize;
    /// # Safety
    /// `LANES` elements lie at `p`, and the processor has `I`.
    unsafe fn load<I: Isa>(p: *const u8) -> I::V;
    /// # Safety
    /// One element lies at `p`.
    unsafe fn one(p: *const u8) -> f32;
}

struct Bf16;
struct F16;
struct F32;

impl Element for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::V {
        // SAFETY: the caller's promise
        unsafe { I::load_bf16(p) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the caller's promise
        half::bf16::from_le_bytes(unsafe { p.cast::<[u8; 2]>().read() }).to_f32()
    }
}

impl Element for F16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::V {
        // SAFETY: the caller's promise
        unsafe { I::load_f16(p) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the caller's promise
        half::f16::from_le_bytes(unsafe { p.cast::<[u8; 2]>().read() }).to_f32()
    }
}

impl Element for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const u8) -> I::V {
        // SAFETY: the caller's promise; every `Isa` loads at any alignment
        unsafe { I::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn one(p: *const u8) -> f32 {
        // SAFETY: the caller's promise
        f32::from_le_bytes(unsafe { p.cast::<[u8; 4]>().read() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::reference::{self, noise, weight};

    const SIZES: &[(usize, usize)] = &[(1, 1), (3, 5), (7, 16), (64, 48), (100, 257), (50, 31), (512, 512)];
    const ELEMENTS: &[ElementType] = &[ElementType::Bf16, ElementType::F16, ElementType::F32];

    #[test]
    fn sixty_four_rows_are_each_what_they_are_alone() {
        for level in Level::available() {
            for element in ELEMENTS {
                // the last is so wide that 64 rows are several blocks
                for &(outs, width) in SIZES.iter().chain(&[(30, 4099)]) {
                    let w = weight(&noise(outs * width, 1), *element, &[outs, width]);
                    let x = noise(64 * width, 2);
                    for rows in [64, 63, 5, 2] {
                        let mut all = vec![0.0; rows * outs];
                        linear(*level, &x[..rows * width], &w, &mut all);
                        for (x, all) in x.chunks_exact(width).zip(all.chunks_exact(outs)) {
                            let mut alone = vec![0.0; outs];
                            linear(*level, x, &w, &mut alone);
                            assert!(
                                alone.iter().zip(all).all(|(a, b)| a.to_bits() == b.to_bits()),
                                "{level:?} {element:?} [{outs}, {width}], {rows} rows"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_that_is_larger_than_a_block_is_computed_too() {
        let (rows, outs, width) = (3, 2, 140_000);
        let x = noise(rows * width, 5);
        for element in ELEMENTS {
            let w = weight(&noise(outs * width, 6), *element, &[outs, width]);
            let exact = reference::linear(&x, &w);
            for level in Level::available() {
                let mut y = vec![f32::NAN; rows * outs];
                linear(*level, &x, &w, &mut y);
                for (y, exact) in y.iter().zip(&exact) {
                    assert!((y - exact).abs() < 1e-2, "{level:?} {element:?}: {y} against {exact}");
                }
            }
        }
    }

    #[test]
    fn it_is_the_matrix_product() {
        for level in Level::available() {
            for element in ELEMENTS {
                for &(outs, width) in SIZES {
                    let w = weight(&noise(outs * width, 3), *element, &[outs, width]);
                    let x = noise(9 * width, 4);
                    let mut y = vec![f32::NAN; 9 * outs];
                    linear(*level, &x, &w, &mut y);
                    for (y, exact) in y.iter().zip(reference::linear(&x, &w)) {
                        let near = (y - exact).abs() < 1e-6 * width as f32 + 1e-5;
                        assert!(near, "{level:?} {element:?} [{outs}, {width}]: {y} against {exact}");
                    }
                }
            }
        }
    }
}
