//! `y = x Wᵀ` with quantised weights, whole numbers against whole numbers.
//!
//! A row of `x` is rounded to 8 bits once, in groups that share a scale (see [`Activations`]); its products with a block
//! of quants are whole numbers, exact in any order, and are scaled and added up in `f32` in one order (see [`tile`]). So a
//! row is computed alone, to the bit, as everywhere in this room. Formats without such a kernel are widened to `f32`, a
//! task's part at a time.

#![allow(unsafe_code)]

mod activations;
mod dots;
mod large;
#[cfg(target_arch = "x86_64")]
mod panel;
mod small;
mod tile;

use std::ops::Range;

use self::activations::Activations;
use self::dots::{Dots, DotsKernel, dispatch};
use self::large::{Q4K, Q5K, Q6K};
use self::small::{Q4_0, Q5_0, Q8_0};
use self::tile::Product;
use super::isa::Level;
use super::linear::linear_f32;
use super::team::{self, TaskSize};
use crate::tensor::blocks::{BlockFormat, LARGE, SMALL};
use crate::tensor::encoding::ElementType;
use crate::tensor::weight::Weight;

/// Multiplications below which a second thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 18;
/// The most bytes of weights that one task takes: they stay in the L2 cache while it goes through the rows. Where there is
/// one, they are read once.
const TASK_BYTES: usize = 192 << 10;
/// Outputs that are computed together, at most.
const UNIT: usize = 16;

/// `x` is `[rows, in]`, `y` takes `[rows, out]`, for a weight `[out, in]` of blocks.
///
/// # Panics
/// If `x` or `y` is not a whole number of rows of the weight's sizes, or not the same number.
pub(super) fn multiply(level: Level, x: &[f32], weight: &Weight, format: BlockFormat, y: &mut [f32]) {
    let (outs, width) = (weight.rows(), weight.cols());
    let rows = x.len() / width;
    assert!(x.len() == rows * width && y.len() == rows * outs, "rows of another width");
    let group = match format {
        BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => SMALL,
        BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => LARGE,
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q2K | BlockFormat::Q3K => {
            return widened(level, x, weight, y);
        }
    };
    let x = Activations::of(level, x, width, group);
    let product = Product {
        x: &x,
        weights: weight.bytes().as_ptr(),
        stride: weight.row_bytes(),
        y: y.as_mut_ptr(),
        outs,
    };
    let part = |outs: Range<usize>| {
        let outs = panels(level, &product, format, outs);
        dispatch(level, Part { product: &product, format, outs });
    };
    if rows * outs * width < WORTH_A_THREAD {
        return part(0..outs);
    }
    let row_bytes = weight.row_bytes();
    let most = if rows == 1 { outs } else { TASK_BYTES / row_bytes };
    team::consume(team::shares(outs, TaskSize { most, row_bytes, unit: UNIT }), part);
}

/// Computes what makes whole panels, where the processor has what they take and there are rows enough; gives what is left.
#[cfg(target_arch = "x86_64")]
fn panels(level: Level, product: &Product<'_>, format: BlockFormat, outs: Range<usize>) -> Range<usize> {
    use self::panel::{OfLarge, OfSmall};
    if level != Level::Vnni || product.x.rows < panel::WORTH_UNPACKING {
        return outs;
    }
    assert!(Level::available().contains(&level), "{level:?} on a processor without it");
    // SAFETY: the processor has the set; `multiply` checked the sizes and gives each output once
    unsafe {
        match format {
            BlockFormat::Q4_0 => panel::compute::<OfSmall<Q4_0>>(product, outs),
            BlockFormat::Q5_0 => panel::compute::<OfSmall<Q5_0>>(product, outs),
            BlockFormat::Q8_0 => panel::compute::<OfSmall<Q8_0>>(product, outs),
            BlockFormat::Q4K => panel::compute::<OfLarge<Q4K>>(product, outs),
            BlockFormat::Q5K => panel::compute::<OfLarge<Q5K>>(product, outs),
            BlockFormat::Q6K => panel::compute::<OfLarge<Q6K>>(product, outs),
            BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q2K | BlockFormat::Q3K => outs,
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn panels(_: Level, _: &Product<'_>, _: BlockFormat, outs: Range<usize>) -> Range<usize> {
    outs
}

/// Work of one task, whose outputs are nobody else's.
struct Part<'a> {
    product: &'a Product<'a>,
    format: BlockFormat,
    outs: Range<usize>,
}

impl DotsKernel for Part<'_> {
    #[allow(clippy::inline_always)]
    #[inline(always)]
    unsafe fn run<D: Dots>(self) {
        let Self { product, format, outs } = self;
        // SAFETY: the processor has `D`, as `dispatch` checked; `multiply` checked the sizes and gives each output once
        unsafe {
            match format {
                BlockFormat::Q4_0 => product.small::<D, Q4_0>(outs),
                BlockFormat::Q5_0 => product.small::<D, Q5_0>(outs),
                BlockFormat::Q8_0 => product.small::<D, Q8_0>(outs),
                BlockFormat::Q4K => product.large::<D, Q4K>(outs),
                BlockFormat::Q5K => product.large::<D, Q5K>(outs),
                BlockFormat::Q6K => product.large::<D, Q6K>(outs),
                BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q2K | BlockFormat::Q3K => {
                    unreachable!("{format} is widened")
                }
            }
        }
    }
}

/// By way of `f32` weights, a few outputs at a time.
fn widened(level: Level, x: &[f32], weight: &Weight, y: &mut [f32]) {
    let (outs, width) = (weight.rows(), weight.cols());
    let row_bytes = width * ElementType::F32.size();
    let parts = team::shares(outs, TaskSize { most: TASK_BYTES / row_bytes, row_bytes, unit: 4 });
    let rows = x.len() / width;
    let mut computed: Vec<(Range<usize>, Vec<f32>)> =
        parts.into_iter().map(|part| (part.clone(), vec![0.0; rows * part.len()])).collect();
    team::consume(computed.iter_mut().collect(), |(part, y)| {
        let mut wide = vec![0.0; part.len() * width];
        for (out, row) in part.clone().zip(wide.chunks_exact_mut(width)) {
            weight.widen_row(out, row);
        }
        linear_f32(level, x, &wide, width, y);
    });
    for (part, computed) in computed {
        for (y, computed) in y.chunks_exact_mut(outs).zip(computed.chunks_exact(part.len())) {
            y[part.clone()].copy_from_slice(computed);
        }
    }
}

#[cfg(test)]
mod tests;
